"""Videos in preference pairs: frames as encoded images with their times, and as images for models without a video
input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.data.images import encode_image
from mmpo.data.pair import Message, PreferencePair, Video
from mmpo.data.video.read import read_frames
from mmpo.data.video.records import Frames

FRAMES = 8
"""Frames of a video that a pair names only by its path: LLaVA-Hound's number."""


def encoded(frames: Frames, format: str = "JPEG") -> list[bytes]:
    """The frames as image files; equal frames give equal bytes."""
    return [encode_image(Image.fromarray(frame), format) for frame in frames.array]


def frames_as_images(pair: PreferencePair, root: str | Path | None = None, num: int = FRAMES) -> PreferencePair:
    """The pair with each video part of its prompt replaced by one image part a frame, in order.

    A video given by its path (below `root`) is sampled at `num` frames. Raises a `VideoError` where it can't be read.
    A pair without videos is returned as it is.
    """
    if not pair.videos:
        return pair
    videos = [_frames(video, root, num) for video in pair.videos]
    prompt, images = _expanded(pair.prompt, list(pair.images), videos)
    rejected = pair.rejected_images
    return replace(
        pair,
        prompt=prompt,
        images=images,
        rejected_images=None if rejected is None else _expanded(pair.prompt, list(rejected), videos)[1],
        videos=None,
    )


def _frames(video: Video, root: str | Path | None, num: int) -> list[bytes | str]:
    if video.get("frames"):
        return list(video["frames"])
    if root is None:
        return list(encoded(read_frames(video["path"], num=num)))
    return list(encoded(read_frames(video["path"], num=num, root=root)))


def _expanded(
    prompt: list[Message], images: list[bytes | str], videos: list[list[bytes | str]]
) -> tuple[list[Message], list[bytes | str]]:
    shown: list[bytes | str] = []
    next_image, next_video = iter(images), iter(videos)
    messages: list[Message] = []
    for message in prompt:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "image":
                shown.append(next(next_image))
                content.append(part)
            elif part["type"] == "video":
                frames = next(next_video)
                shown += frames
                content += [{"type": "image"} for _ in frames]
            else:
                content.append(part)
        messages.append({**message, "content": content})
    return messages, shown
