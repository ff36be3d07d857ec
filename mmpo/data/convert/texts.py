"""From tagged text (`<image>\\nWhat is this?`) to messages and back, and from a row's fields to a checked pair."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmpo
from mmpo.data.convert.media import below, image_of
from mmpo.data.convert.rows import Row
from mmpo.data.pair import Message, PreferencePair, Video, content_parts, join_text, text_message, validate
from mmpo.errors import Quarantined, UserError
from mmpo.outside import json_of

TAG = re.compile(r"<(image|video)>")
EXTRAS = "mmpo"
"""The column, one JSON text, in which other formats carry what they have no place for."""
EXTRA_KINDS: dict[str, type] = {
    "chosen_weights": list, "rejected_weights": list, "image_weights": list, "chosen_parts": list,
    "rejected_parts": list, "unfinished": bool, "twin": str, "scores": dict, "provenance": dict, "times": list,
}  # fmt: skip

REJECTED_SIDE = re.compile(r"reject|(?:^|_)(?:lose|loser|worse|dispreferred)(?:$|_)")
"""In the names under which projects keep the worse answer."""

ChatTurn = tuple[str, str]
"""Role (system, user, assistant) and tagged text."""


def bad(reason: str, detail: str) -> Quarantined:
    return Quarantined("convert", reason, detail)


def need(row: Mapping[str, Any], *names: str, kind: type | tuple[type, ...] = str) -> Any:
    """The value under the first of `names` that the row has; Quarantined if there is none or it is of another type."""
    for name in names:
        if (value := row.get(name)) is not None:
            if not isinstance(value, kind):
                raise bad("bad_type", f"`{name}` is a {type(value).__name__}")
            return value
    if REJECTED_SIDE.search(names[0]):
        raise bad("no_rejected", f"no rejected answer (`{names[0]}`)")
    raise bad("missing_key", f"no `{names[0]}`")


def parts_of(text: str, trim: bool = False) -> list[dict[str, str]]:
    """The text cut at its tags. `trim` drops the line break between the text and tags before or after all of it, as
    LLaVA writes it; chat templates put their own there."""
    if trim:
        text = re.sub(r"^((?:<(?:image|video)>\s*)+)", lambda match: re.sub(r"\s+", "", match.group()), text)
        text = re.sub(r"((?:\s*<(?:image|video)>)+)$", lambda match: re.sub(r"\s+", "", match.group()), text)
    parts: list[dict[str, str]] = []
    position = 0
    for tag in TAG.finditer(text):
        if tag.start() > position:
            parts.append({"type": "text", "text": text[position : tag.start()]})
        parts.append({"type": tag.group(1)})
        position = tag.end()
    if position < len(text):
        parts.append({"type": "text", "text": text[position:]})
    return parts


def messages_of(turns: Iterable[ChatTurn], images: int, videos: int = 0, *, trim: bool = False) -> list[Message]:
    """Messages of a conversation. Where no turn has a tag for its media, they stand before the first user turn."""
    messages = [{"role": role, "content": parts_of(text, trim)} for role, text in turns]
    for kind, count in (("video", videos), ("image", images)):
        shown = sum(1 for _ in content_parts(messages, kind))
        if not shown and count:
            first = next((message for message in messages if message["role"] == "user"), None)
            if first is None:
                raise bad("no_question", "the conversation has no user turn")
            first["content"] = [*({"type": kind} for _ in range(count)), *first["content"]]
        elif shown != count:
            raise bad(f"{kind}_count", f"the text has {shown} <{kind}> tag(s), the row {count} {kind}(s)")
    return messages


def turns_of(messages: Sequence[Message]) -> list[ChatTurn]:
    """The inverse of `messages_of`: parts of media become tags."""
    return [
        (
            message["role"],
            "".join(part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in message["content"]),
        )
        for message in messages
    ]


def alternating(turns: Sequence[ChatTurn]) -> Sequence[ChatTurn]:
    """The turns, if they are what most trainers demand: maybe a system turn, then user and assistant by turns, a user
    last."""
    roles = [role for role, _ in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or talk != ["user", "assistant"] * (len(talk) // 2) + ["user"]:
        raise bad("role_order", f"the format has no place for the roles {', '.join(roles)}")
    return turns


def only_answer(response: Sequence[Message], side: str) -> str:
    """The text of a response of one message; Quarantined for one of several turns, which the format can't hold."""
    if len(response) > 1:
        raise bad("no_place", f"the format has no place for the {len(response)} messages of `{side}`")
    return join_text(response)


def pair_of(
    row: Row,
    builder: str,
    *,
    prompt: list[Message],
    chosen: str | list[Message],
    rejected: str | list[Message],
    images: list[bytes | str],
    id: Any = None,
    noted: Mapping[str, Any] | None = None,
    extras: Mapping[str, Any] | None = None,
    **fields: Any,
) -> PreferencePair:
    """A pair that keeps every rule, else Quarantined. `id` is the row's, of any type; without one its place names it.
    `noted` goes into the provenance; `extras` (an earlier export's) take the place of it."""
    chosen, rejected = (
        [text_message("assistant", side)] if isinstance(side, str) else side for side in (chosen, rejected)
    )
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not join_text(response).strip():
            raise bad("empty_response", f"`{name}` is empty")
    if chosen == rejected and fields.get("rejected_images") in (None, images):
        raise bad("equal_responses", "chosen and rejected are the same")
    known = {name: value for name, value in (noted or {}).items() if value is not None}
    fields["provenance"] = {
        "builder": f"convert/{builder}", "version": mmpo.__version__, "sources": [row.place], **known,
    }  # fmt: skip
    pair = PreferencePair(
        id=row.key if id in (None, "") else str(id),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        images=images,
        **(fields | dict(extras or {})),
    )
    return checked(pair, row)


def pair_of_turns(
    row: Row,
    builder: str,
    turns: Sequence[ChatTurn],
    *,
    images: list[bytes | str],
    videos: Any,
    root: Path,
    **fields: Any,
) -> PreferencePair:
    """`pair_of` a row whose prompt is tagged text and which may carry an earlier export's extras. `videos` is what it
    has in that column; paths start from `root`."""
    extras = extras_in(row.data)
    found = videos_of(videos, root, extras.pop("times", None))
    prompt = messages_of(turns, len(images), len(found or []))
    id = row.data.get("id")
    return pair_of(row, builder, id=id, images=images, videos=found, extras=extras, prompt=prompt, **fields)


def checked(pair: PreferencePair, row: Row) -> PreferencePair:
    """The pair, if it keeps the rules of the schema; else Quarantined."""
    try:
        json.dumps(pair.provenance, ensure_ascii=False).encode()
        return validate(pair, row.place)
    except UnicodeEncodeError:
        raise bad("invalid", "a name in the row holds half a character") from None
    except UserError as error:
        raise bad("invalid", error.message.removeprefix(f"{row.place} ")) from None


def extras_of(pair: PreferencePair) -> str:
    """The fields that other formats have no place for, as one JSON text."""
    extras = {name: value for name in EXTRA_KINDS if name != "times" and (value := getattr(pair, name))}
    if times := [video.get("times") for video in pair.videos or []]:
        extras["times"] = times
    return json.dumps(extras, ensure_ascii=False, sort_keys=True)


def extras_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `extras_of`; nothing for rows that mmpo did not write."""
    text = row.get(EXTRAS)
    if not isinstance(text, str):
        return {}
    try:
        extras = json_of(text)
    except ValueError:
        extras = None
    if not isinstance(extras, dict):
        raise bad("bad_extras", f"`{EXTRAS}` is not a JSON object")
    for name, kind in EXTRA_KINDS.items():
        if not isinstance(extras.get(name, kind()), kind):
            raise bad("bad_extras", f"`{name}` in `{EXTRAS}` is a {type(extras[name]).__name__}")
    return {"provenance": {}} | {name: extras[name] for name in EXTRA_KINDS if name in extras}


def videos_of(videos: Any, root: Path, times: Sequence[Any] | None) -> list[Video] | None:
    """The videos in a column: paths, or lists of frames whose times an earlier export kept; None if it is empty."""
    if not videos:
        return None
    found: list[Video] = []
    for number, video in enumerate(videos if isinstance(videos, list) else [videos]):
        if isinstance(video, Mapping):  # as the feature `Video` of `datasets` has it
            if video.get("bytes"):
                raise bad("embedded_video", "the video lies in the row; write it to a file and give its path")
            video = video.get("path")
        if isinstance(video, str) and video:
            found.append({"path": below(video, root)})
        elif isinstance(video, list) and times is not None and number < len(times):
            found.append({"frames": [image_of(frame, root) for frame in video], "times": times[number]})
        else:
            raise bad("bad_video", "expected a path; frames need their times")
    return found
