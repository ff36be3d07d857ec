"""Clips whose frames carry their own number: twelve columns in the upper half, column b white where bit b is set.

The pattern survives lossy coding, so a wrong frame shows whatever the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12
SIZE = (96, 64)


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    width, height = size
    frame = np.full((height, width, 3), 96, dtype=np.uint8)
    column = width / BITS
    for bit in range(BITS):
        left, right = round(bit * column), round((bit + 1) * column)
        frame[: height // 2, left:right] = 255 if number >> bit & 1 else 0
    # Something that moves, so that codecs have motion to code.
    x = number * 2 % width
    frame[height * 3 // 4 :, x : x + 6] = (200, 40, 40)
    return frame


def number_of(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    grey = frame[height // 8 : height * 3 // 8].mean(axis=(0, 2))
    column = width / BITS
    middles = [
        grey[int((b + 0.25) * column) : max(int((b + 0.75) * column), int((b + 0.25) * column) + 1)]
        for b in range(BITS)
    ]
    return sum(1 << bit for bit, values in enumerate(middles) if values.mean() > 127)


def numbers_of(frames: np.ndarray) -> list[int]:
    return [number_of(frame) for frame in frames]


def write(
    path: Path,
    n: int = 60,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
    pix_fmt: str = "yuv420p",
    fps: int = 30,
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    rotation: int = 0,
    audio: bool = False,
    audio_first: bool = False,
    frame: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """A clip of `n` numbered frames. `stamps` are times in thousandths of a second (variable rate)."""
    options = options or {"g": "12", "x264-params": "bframes=2:open-gop=0", "preset": "ultrafast", "crf": "18"}
    if codec != "libx264":
        options = {key: value for key, value in options.items() if key == "g"} | (
            {} if codec != "mpeg4" else {"bf": "2"}
        )
    with av.open(str(path), "w", options=mux or {}) as container:
        sound = _sound(container) if audio and audio_first else None
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if audio and sound is None:
            sound = _sound(container)
        for number in range(n):
            picture = av.VideoFrame.from_ndarray((frame or (lambda i: numbered(i, size)))(number), format="rgb24")
            if stamps is not None:
                picture.pts, picture.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if sound is not None:
            _silence(container, sound, n / fps)
    if rotation:
        _turn(path, rotation)
    return path


def _turn(path: Path, rotation: int) -> None:
    """Write an anticlockwise turn by 90, -90 or 180 degrees into the track header of an MP4."""
    cos, sin = {90: (0, 1), -90: (0, -1), 180: (-1, 0)}[rotation]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for place, value in enumerate((cos, -sin, 0, sin, cos)):
        data[at + 4 * place : at + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    with av.open(str(path), "w") as container:
        _silence(container, _sound(container), seconds)
    return path


def _sound(container: Any) -> Any:
    return container.add_stream("aac", rate=16000, layout="mono")


def _silence(container: Any, stream: Any, seconds: float) -> None:
    samples = av.AudioFrame.from_ndarray(np.zeros((1, int(16000 * seconds)), dtype=np.float32), "fltp", "mono")
    samples.sample_rate = 16000
    container.mux(stream.encode(samples))
    container.mux(stream.encode())


def patched_edit_list(
    source: Path, target: Path, *, media_time: int | None = None, duration: int | None = None
) -> Path:
    """The same file with another first edit: `media_time` in the track's time units, `duration` in the movie's."""
    data = bytearray(source.read_bytes())
    at = data.index(b"elst") + 12
    if duration is not None:
        data[at : at + 4] = duration.to_bytes(4, "big")
    if media_time is not None:
        data[at + 4 : at + 8] = media_time.to_bytes(4, "big")
    target.write_bytes(bytes(data))
    return target
