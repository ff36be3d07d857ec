"""LLaVA-Hound's video preferences (arXiv:2404.01258), `sft_dpo_17k.jsonl`, and image pairs mixed into them.

    {"id", "video", "prompt", "answer", "chosen", "rejected", "chosen_score", "rejected_score"}     a line
    {"id", "image_path", "prompt", "chosen", "rejected"}

`video` is a path without a suffix: the folder of the frames that the project cuts out at 2 a second, 336 wide
(`c01_0001.jpeg`, …). A file of that name, or of that name with a suffix, is taken as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from mmpo.data.convert.format import Format, Options, SourceContext
from mmpo.data.convert.media import below, cells_of, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, pair_of, videos_of
from mmpo.data.pair import PreferencePair, Video
from mmpo.files.paths import inside

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")
FRAME_SUFFIXES = (".jpeg", ".jpg", ".png")
VIDEO_KEYS = ("video", "videos", "video_path")
IMAGE_KEYS = ("image_path", "image", "images")


class HoundOptions(Options):
    """Options for making a video of a folder of frames."""

    frames: int = Field(8, ge=1, description="Frames taken of a folder, evenly spread; the released training takes 8.")
    frames_per_second: float = Field(2.0, gt=0, description="At which the frames of a folder were cut out.")


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    images = images_of(data, context.images, *IMAGE_KEYS)
    cells = cells_of(data, *VIDEO_KEYS)
    found = [_folder_or_file(cell, context) if isinstance(cell, str) else cell for cell in cells]
    frames = [video for video in found if isinstance(video, dict) and "frames" in video]
    videos = frames if len(frames) == len(found) and frames else videos_of(found, context.images, None)
    noted = {name: data.get(name) for name in ("chosen_score", "rejected_score")}
    yield pair_of(
        row, "llava-hound", id=data.get("id"), images=images, videos=videos, noted=noted,
        prompt=messages_of([("user", need(data, "prompt"))], len(images), len(videos or []), trim=True),
        chosen=need(data, "chosen"), rejected=need(data, "rejected"),
    )  # fmt: skip


def _folder_or_file(name: str, context: SourceContext) -> str | Video:
    """The video in a row: the path of a file, or the frames of a folder with their times in seconds."""
    path = below(name, context.images)
    place = inside(context.images, path)
    folder = place if place.is_dir() else place.with_suffix("")
    if not place.is_file() and folder.is_dir():
        return _frames(folder, Path(path) if folder == place else Path(path).with_suffix(""), context.options)
    if not place.exists():
        return next((path + suffix for suffix in SUFFIXES if inside(context.images, path + suffix).is_file()), path)
    return path


def _frames(folder: Path, path: Path, options: HoundOptions) -> Video:
    """`frames` of the folder in the order of their names, at truncated even distances as the released code takes them;
    all of them where there are fewer."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not names:
        raise bad("empty_video", f"{path.as_posix()}: a folder without frames")
    last, wanted = len(names) - 1, min(options.frames, len(names))
    picks = [last * number // max(wanted - 1, 1) for number in range(wanted)]
    return {
        "frames": [(path / names[pick]).as_posix() for pick in picks],
        "times": [pick / options.frames_per_second for pick in picks],
    }


def _fits(row: Mapping[str, Any]) -> bool:
    if not ({"prompt", "chosen", "rejected"} <= row.keys() and isinstance(row["prompt"], str)):
        return False
    return bool(row.keys() & {"video", "image_path"}) and not row.keys() & {"images", "image", "videos", "messages"}


LLAVA_HOUND = Format(
    "llava-hound", "LLaVA-Hound: `prompt`, `chosen`, `rejected`, `video` or `image_path`", read, _fits,
    options=HoundOptions,
)  # fmt: skip
