"""Lists of videos with what is known about them, from JSON Lines.

    {"id": "v1", "video": "clips/v1.mp4", "caption": "…", "qa": [{"question": "…", "answer": "…"}],
     "objects": ["ball"], "events": [["ball", "enters"], …]}

Only `video` is required. LLaVA-Hound's question files, `{"id": "NAME_0", "video": …, "conversations": […]}`, are read
too, one question a row, rows of one video brought together; so are captions in a file of their own, `{"id" | "video",
"caption"}`. Paths are relative to the videos folder and can't leave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.outside import names_its_file

TAGS = ("<video>", "<image>")


@dataclass(frozen=True)
class QA:
    """A question about a video and its reference answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class VideoItem:
    """One video. `video` is a file or a folder of frames below `root`; `events` are (who, does)."""

    id: str
    video: str
    root: str
    caption: str = ""
    qa: tuple[QA, ...] = ()
    objects: tuple[str, ...] = ()
    events: tuple[tuple[str, str], ...] = ()


@names_its_file("a list of videos")
def read_videos(
    path: str | Path, root: str | Path | None = None, captions: str | Path | None = None
) -> list[VideoItem]:
    """The videos of a file, in order. `root` is the videos folder (left out: the file's own). UserError names file and
    line."""
    path = Path(path)
    base = str(root if root is not None else path.parent)
    said = dict(_captions(Path(captions))) if captions is not None else {}
    items: dict[str, VideoItem] = {}
    for where, row in read_records(path):
        item = _item(row, base, where)
        known = items.get(item.id)
        if known is not None and "conversations" not in row:
            raise UserError(f"{where}: a second video is called {item.id!r}", hint="ids must differ")
        if known is not None and known.video != item.video:
            raise UserError(f"{where}: {item.id!r} is {known.video} above and {item.video} here")
        items[item.id] = item if known is None else replace(known, qa=known.qa + item.qa)
    return [
        replace(item, caption=item.caption or said.get(item.id) or said.get(item.video, "")) for item in items.values()
    ]


def _captions(path: Path) -> Iterator[tuple[str, str]]:
    for where, row in read_records(path):
        names = [str(row[key]) for key in ("id", "video") if key in row]
        if not names or not isinstance(row.get("caption"), str):
            raise UserError(f"{where}: a caption row needs `caption`, and `id` or `video`")
        for name in names:
            yield name, row["caption"].strip()


def _item(row: dict[str, Any], root: str, where: str) -> VideoItem:
    video = row.get("video")
    if not isinstance(video, str) or not video:
        raise UserError(f"{where}: no `video`", hint='name the file: {"video": "clip.mp4"}')
    if "conversations" in row:
        name = str(row.get("id", video))
        stem, _, number = name.rpartition("_")
        return VideoItem(stem if number.isdigit() and stem else name, video, root, qa=(_conversation(row, where),))
    try:
        pairs = row.get("qa") or []
        qa = tuple(QA(_text(without_tags(pair["question"])), _text(pair["answer"])) for pair in pairs)
        events = tuple((_text(who), _text(does)) for who, does in (event[:2] for event in row.get("events") or []))
        objects = tuple(_text(name) for name in row.get("objects") or [])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{where}: `qa` holds {{question, answer}}, `objects` names, `events` [who, does]", hint="see docs/video.md"
        ) from None
    caption = row.get("caption") or ""
    if not isinstance(caption, str):
        raise UserError(f"{where}: `caption` must be a text")
    return VideoItem(str(row.get("id", video)), video, root, caption.strip(), qa, objects, events)


def _conversation(row: dict[str, Any], where: str) -> QA:
    turns = row["conversations"]
    try:
        said = {turn["from"]: turn["value"] for turn in turns}
        question, answer = _text(said["human"]), _text(said["gpt"])
    except (LookupError, TypeError):
        raise UserError(f"{where}: `conversations` needs a human and a gpt turn") from None
    return QA(_text(without_tags(question)), _text(answer))


def without_tags(question: Any) -> Any:
    """A question without `<video>` and `<image>`: what is asked about is shown before it anyway."""
    for tag in TAGS if isinstance(question, str) else ():
        question = question.replace(tag, "")
    return question


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("expected a text")
    return value.strip()
