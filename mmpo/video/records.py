"""Records about a video: its properties, the frames read from it, and the limits of reading."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mmpo.errors import UserError
from mmpo.video.errors import DecodeTimeout

OnError = Literal["strict", "nearest", "skip"]

Pixels = npt.NDArray[np.uint8]
"""One frame [h, w, 3] or several [t, h, w, 3], RGB."""


@dataclass(frozen=True)
class Limits:
    """Checked before memory is taken. `timeout` is in seconds, for one call on one video; `threads` 0: as many as there
    are cores, up to 4."""

    max_pixels: int = 8192 * 8192
    max_frames: int = 1024
    max_output_bytes: int = 2 * 2**30
    max_packets: int = 5_000_000
    scan_bytes: int = 64 * 2**30
    timeout: float = 60.0
    threads: int = 0


@dataclass(frozen=True)
class Damage:
    """What becomes of wanted frames that can't be decoded cleanly: "strict" raises CorruptVideo, "nearest" takes the
    nearest clean frame within `max_gap` seconds and lists it, "skip" leaves them out; `min_frames` must survive."""

    on_error: OnError = "strict"
    max_gap: float = 0.5
    min_frames: int = 1

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise UserError(f"on_error={self.on_error!r}", hint="choose strict, nearest or skip")


@dataclass(frozen=True)
class VideoInfo:
    """A video as it is shown: `width` and `height` are those of the upright picture, `times` count from its first
    frame.

    `rotation` is what the container asks for, in degrees counter-clockwise; frames come with it applied. `duration`
    ends with the last frame's own duration. `n_frames` and `times` come from the exact index, never from the header.
    """

    path: str
    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    n_frames: int
    key_frames: int
    duration: float
    avg_fps: float
    variable_rate: bool
    start_time: float
    has_audio: bool
    sample_aspect: str
    interlaced: bool
    hdr: bool
    header_frames: int | None
    backend: str
    warnings: tuple[str, ...] = ()


@dataclass
class ReadReport:
    """The account of a read. `requested == decoded + substituted + missing`, counted in distinct frames.

    `substituted` pairs the wanted frame with the one used for it; `corrupt` are wanted frames that a damaged packet
    before them (or in them) makes doubtful. `backend` names the decoder, `why` the reason against a faster one.
    """

    backend: str
    version: str = ""
    why: str = ""
    requested: int = 0
    decoded: int = 0
    substituted: list[tuple[int, int]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    decode_errors: int = 0
    seeks: int = 0
    n_unique: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frames:
    """Frames of one video. `array` [t, h, w, 3] uint8 RGB, upright; `indices[i]` is the number of frame i in the video
    (-1 for a black one that fills up) and `times[i]` its time in seconds from the video's first frame."""

    array: Pixels
    indices: tuple[int, ...]
    times: tuple[float, ...]
    info: VideoInfo
    report: ReadReport

    def __len__(self) -> int:
        return len(self.indices)


@dataclass
class Decoded:
    """The result of a back end: frames by number, the doubtful ones, counts of errors and seeks, and warnings."""

    frames: dict[int, Pixels] = field(default_factory=dict)
    corrupt: set[int] = field(default_factory=set)
    errors: int = 0
    seeks: int = 0
    warnings: list[str] = field(default_factory=list)


class Deadline:
    """A point in time. Checked between packets; what hangs inside a library needs a process of its own."""

    def __init__(self, path: str, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(self._end - time.monotonic(), 0.0)

    def check(self, doing: str) -> None:
        if time.monotonic() > self._end:
            raise DecodeTimeout(self.path, f"{doing} took longer than {self.seconds:g} s")


def as_json(value: Any) -> Any:
    """Numpy scalars as plain numbers, for `json.dumps(default=…)`."""
    return value.item() if hasattr(value, "item") else str(value)
