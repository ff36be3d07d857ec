"""Sampled frames of a video as one value, on their way to a model. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmpo.errors import UserError
from mmpo.files.images import encode_image
from mmpo.video.records import Frames


@dataclass(frozen=True)
class Clip:
    """Frames in order, as encoded images or paths, and the time of each in seconds from the video's first frame.

    Raises `UserError` without frames, or where times and frames are not equally many.
    """

    frames: tuple[bytes | str | Path, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise UserError(
                f"{len(self.frames)} frames with {len(self.times)} times", hint="give every frame its time in seconds"
            )

    @classmethod
    def of(cls, frames: Frames) -> Clip:
        """The clip of frames read from a video, encoded as JPEG files; equal frames give equal bytes."""
        return cls(
            tuple(encode_image(Image.fromarray(frame), "JPEG") for frame in frames.array),
            tuple(map(float, frames.times)),
        )
