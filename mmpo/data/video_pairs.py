"""Videos in preference pairs: sampled frames with their times, in the places where the prompt shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmpo.data.pair import Message, Video
from mmpo.errors import UserError
from mmpo.video.clip import Clip
from mmpo.video.read import read_frames

T = TypeVar("T")

FRAMES = 8
"""Frames of a video that a pair names only by its path: LLaVA-Hound's number."""


def clip_of(video: Video, root: str | Path | None = None, num: int = FRAMES) -> Clip:
    """The frames of a pair's video; one given by its path (below `root`) is sampled at `num` frames. Raises a
    `VideoError` where it can't be read."""
    if video.get("frames"):
        return Clip(tuple(video["frames"]), tuple(video["times"]))
    if root is None:
        return Clip.of(read_frames(video["path"], num=num))
    return Clip.of(read_frames(video["path"], num=num, root=root))


def in_order(prompt: Sequence[Mapping[str, Any]], images: Sequence[T], videos: Sequence[T]) -> list[T]:
    """Images and videos in the order in which the prompt shows them. Raises `UserError` for another number of them
    than it has parts."""
    waiting = {"image": iter(images), "video": iter(videos)}
    kinds = [part["type"] for part in _parts(prompt) if part["type"] in waiting]
    for kind, given in (("image", images), ("video", videos)):
        if (shown := kinds.count(kind)) != len(given):
            raise UserError(
                f"the prompt shows {shown} {kind}(s) but {len(given)} were given",
                hint=f'every {kind} needs one {{"type": "{kind}"}} part',
            )
    return [next(waiting[kind]) for kind in kinds]


def with_frames(prompt: Sequence[Mapping[str, Any]], frames: Sequence[int]) -> list[Message]:
    """The prompt with its k-th video part replaced by `frames[k]` image parts."""
    counts = iter(frames)

    def shown(part: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"type": "image"} for _ in range(next(counts))] if part["type"] == "video" else [dict(part)]

    return [{**message, "content": [own for part in _content(message) for own in shown(part)]} for message in prompt]


def _parts(prompt: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (part for message in prompt for part in _content(message))


def _content(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The parts of a message; a plain text is one."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
