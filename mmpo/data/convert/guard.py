"""No picture, video or sound of a row may vanish: what the row holds is compared with what its pairs hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mmpo.data.convert.telling import ALIAS, Medium, media_in, words_of
from mmpo.data.convert.texts import EXTRAS, bad
from mmpo.data.pair import PreferencePair, content_parts
from mmpo.data.responses import ResponseGroup

# Where each family of models has its media in the text; ours are `<image>` and `<video>`.
_PARTS = r"pad|token|start|end|bos|eos|begin|placeholder|sentinel|soft[-_ ]?token|context|patch|here|\d+"
PLACEHOLDERS = {
    "image": re.compile(
        rf"<(?:image|img)[-_ ]?(?:{_PARTS})>|<image>|<\|(?:image|img|vision)(?:[-_ ]?(?:{_PARTS}))?\|>"
        r"|<\|?(?:start|end|begin)_of_(?:image|vision)\|?>|<im_(?:patch|start|end)>|<img>(?=[^<>]*</img>)"
        r"|\[(?:IMG|IMAGE)(?:[-_ ]?\w+)?\]|<\|?media(?:_\w+)?\|?>",
        re.IGNORECASE,
    ),
    "video": re.compile(
        rf"<video(?:[-_ ]?(?:{_PARTS}))?>|<\|video(?:[-_ ]?(?:{_PARTS}))?\|>|<\|?(?:start|end|begin)_of_video\|?>"
        r"|\[VIDEO(?:[-_ ]?\w+)?\]",
        re.IGNORECASE,
    ),
    "audio": re.compile(
        rf"<(?:audio|speech|sound)(?:[-_ ]?(?:{_PARTS}))?>|<\|(?:audio|speech|sound)(?:[-_ ]?(?:{_PARTS}))?\|>"
        r"|<\|?(?:start|end|begin)_of_audio\|?>|\[AUDIO(?:[-_ ]?\w+)?\]",
        re.IGNORECASE,
    ),
}


@dataclass
class _Held:
    """The media that the pairs of a row hold."""

    paths: set[str] = field(default_factory=set)
    data: set[bytes] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: {"image": 0, "video": 0, "audio": 0})


def check_media(
    data: Mapping[str, Any], pairs: Sequence[PreferencePair | ResponseGroup], ignore: Sequence[str] = ()
) -> None:
    """Quarantined if the row has a picture, video or sound, or a placeholder of one, that its pairs do not have.

    `ignore` names keys whose media are known not to be the pairs'.
    """
    held, texts = _held(pairs)
    row = {key: value for key, value in data.items() if key not in ignore and key not in (EXTRAS, "provenance")}
    media = [medium for medium in media_in(row) if medium.path is None or medium.path.strip() not in texts]
    for medium in media:
        if medium.kind == "audio":
            raise bad("audio", f"{medium}: sounds are not supported")
        if not _is_held(medium, held) and not _is_alias(medium, media, held):
            raise bad("unread_media", f"{medium} is not read")
    for kind, pattern in PLACEHOLDERS.items():
        if not held.counts[kind]:
            for text in _strings(row):
                if found := pattern.search(text):
                    raise bad("placeholder", f"the text has {found.group()!r}, the row no {kind} that is read")
        for pair in pairs:
            for part in content_parts(pair.prompt, "text"):
                if found := pattern.search(part["text"]):
                    raise bad("placeholder", f"the prompt has {found.group()!r}, which is no tag of ours")


def has_media(pair: PreferencePair | ResponseGroup) -> bool:
    return bool(shown_images(pair) or pair.videos)


def shown_images(pair: PreferencePair | ResponseGroup) -> list[bytes | str]:
    """The images of both sides."""
    return [*pair.images, *((isinstance(pair, PreferencePair) and pair.rejected_images) or ())]


def _held(pairs: Sequence[PreferencePair | ResponseGroup]) -> tuple[_Held, set[str]]:
    held = _Held()
    texts: set[str] = set()
    for pair in pairs:
        videos = pair.videos or []
        frames = [frame for video in videos for frame in video.get("frames") or []]
        files = [video["path"] for video in videos if video.get("path")]
        for medium in (*shown_images(pair), *frames, *files):
            if isinstance(medium, bytes):
                held.data.add(medium)
            else:
                held.paths.add(medium)
        held.counts["image"] = max(held.counts["image"], len(pair.images))
        held.counts["video"] = max(held.counts["video"], len(videos))
        texts.update(part["text"].strip() for part in content_parts(pair.prompt, "text"))
        if isinstance(pair, ResponseGroup):
            texts.update(response.text.strip() for response in pair.responses)
            continue
        texts.add((pair.twin or "").strip())  # an id, though it may look like a file
        for messages in (pair.chosen, pair.rejected):
            texts.update(part["text"].strip() for part in content_parts(messages, "text"))
    return held, texts


def _is_held(medium: Medium, held: _Held) -> bool:
    if medium.reference:
        return held.counts[medium.kind] > 0
    if medium.data is not None and medium.data in held.data:
        return True
    if medium.path is None:
        return False
    path = PurePosixPath(medium.path.strip()).as_posix()
    stem = path[: -len(PurePosixPath(path).suffix)] if PurePosixPath(path).suffix else path
    return any(
        path == other or path.endswith("/" + other) or other.startswith((path + "/", stem + "/"))
        or other.rpartition(".")[0] == path
        for other in (PurePosixPath(one).as_posix() for one in held.paths)
    )  # fmt: skip


def _is_alias(medium: Medium, media: Sequence[Medium], held: _Held) -> bool:
    """True if a name stands for what the pair holds under another key: a path beside the bytes, an old path."""
    words = words_of(medium.key.rpartition(".")[2])
    count = held.counts[medium.kind]
    same = [other for other in media if other.key == medium.key]
    if medium.data is not None or not count or not words or not all(map(ALIAS.fullmatch, words)) or len(same) > count:
        return False
    if held.data:
        return True
    name = PurePosixPath(medium.path or "").stem
    return any(PurePosixPath(other).stem == name for other in held.paths)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and depth < 8:
        for inner in value.values():
            yield from _strings(inner, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 8:
        for inner in value:
            yield from _strings(inner, depth + 1)
