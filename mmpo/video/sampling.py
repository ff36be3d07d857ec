"""Choice of the frames to take from a video. Pure functions of the frames' times; every choice is an existing frame.

| name | picks | used by |
| --- | --- | --- |
| `linspace_trunc` | `int(i * (n-1) / (k-1))` | LLaVA-Hound, Video-LLaVA |
| `linspace_round` | the same, rounded (half to even) | |
| `segment_mid` | the middle of k segments with rounded bounds | Video-ChatGPT, Chat-UniVi |
| `time_linspace` | the frame shown at k evenly spaced times | variable frame rates |
| `fps:R` | the frame nearest to each multiple of 1/R seconds | frame dumps (LLaVA-Hound: 2 a second) |
| `first_seconds:S` | `linspace_trunc` over the first S seconds | LLaVA-Hound's decord path (S = 10) |
| `keyframes` | k of the key frames, by `linspace_trunc` | |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmpo.errors import UserError

SAMPLINGS = ("linspace_trunc", "linspace_round", "segment_mid", "time_linspace", "keyframes", "fps", "first_seconds")
Pad = Literal["repeat_last", "none", "loop", "black"]
BLACK = -1
"""Number of a frame that is not in the video."""

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """A rule (docs/video.md lists them), the seconds [start, end) that frames are chosen from, and what fills up where
    there are too few."""

    rule: str = "linspace_trunc"
    start: float | None = None
    end: float | None = None
    pad: Pad = "repeat_last"


def sample(
    times: Sequence[float] | Times,
    num: int = 8,
    sampling: str = "linspace_trunc",
    *,
    duration: float | None = None,
    keys: Sequence[int] = (),
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    pad: Pad = "repeat_last",
) -> list[int]:
    """Numbers of the frames to show, in order; empty for a video without frames.

    `times` are the frames' times in seconds, ascending; only frames with `start <= time < end` are chosen from.
    `duration` is what `fps:R` covers (default: up to the last frame). Where fewer than `num` frames are there,
    `linspace` and its variants repeat frames by themselves (`pad="repeat_last"`); "none" gives each once, "loop"
    starts over, "black" fills up with `BLACK`.
    """
    stamps = np.asarray(times, dtype=np.float64)
    name, value = parse(sampling)
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    if name == "first_seconds":
        end = value if end is None else min(end, value)
    inside = np.flatnonzero(
        (stamps >= (-np.inf if start is None else start)) & (stamps < (np.inf if end is None else end))
    )
    n = len(inside)
    if n == 0:
        return []
    if name == "fps":
        spacing = stamps[-1] / max(len(stamps) - 1, 1)
        last = stamps[-1] + spacing if duration is None else duration
        picked = _nearest(stamps[inside], value, stamps[inside[0]], min(last, np.inf if end is None else end))
        if max_frames is not None and len(picked) > max_frames:
            picked = [picked[i] for i in linspace(len(picked), max_frames)]
        return [int(inside[i]) for i in picked]
    if name == "keyframes":
        inside = np.intersect1d(inside, np.asarray(keys, dtype=np.int64))
        n = len(inside)
        if n == 0:
            return []
    if n < num and pad != "repeat_last":
        return _padded([int(i) for i in inside], num, pad)
    if name == "segment_mid":
        chosen = _segment_mid(n, num)
    elif name == "time_linspace":
        local = stamps[inside]
        chosen = [int(i) for i in np.searchsorted(local, np.linspace(local[0], local[-1], num), side="right") - 1]
    else:
        chosen = linspace(n, num, rounded=name == "linspace_round")
    return [int(inside[i]) for i in chosen]


def linspace(n: int, k: int, *, rounded: bool = False) -> list[int]:
    """`k` numbers from 0 to n-1, evenly spaced and truncated (or rounded); `[0]` for k = 1, nothing for n = 0."""
    if n == 0:
        return []
    points = np.linspace(0, n - 1, k)
    return [int(i) for i in (np.round(points) if rounded else points).astype(np.int64)]


def parse(sampling: str) -> tuple[str, float]:
    """`fps:2` -> ("fps", 2.0); names without a value get 0. UserError for anything unknown."""
    name, _, text = sampling.partition(":")
    if name not in SAMPLINGS:
        raise UserError(f"no frame sampling is called {sampling!r}", hint=f"choose one of {', '.join(SAMPLINGS)}")
    if name not in ("fps", "first_seconds"):
        if text:
            raise UserError(f"the sampling {name} takes no value, got {sampling!r}")
        return name, 0.0
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and np.isfinite(value)):
        raise UserError(f"the sampling {sampling!r} needs a positive number", hint=f"for example {name}:2")
    return name, value


def _segment_mid(n: int, k: int) -> list[int]:
    bounds = np.round(np.linspace(0, n - 1, k + 1)).astype(np.int64)
    return [int(a + b) // 2 for a, b in pairwise(bounds)]


def _nearest(stamps: Times, rate: float, first: float, end: float) -> list[int]:
    """The frame nearest to each multiple of 1/rate; the earlier one of two equally near, none twice.

    The number of multiples is that of ffmpeg's fps filter: the covered time in units of 1/rate, rounded.
    """
    count = max(round((end - first) * rate), 1)
    wanted = first + np.arange(count) / rate
    right = np.clip(np.searchsorted(stamps, wanted), 0, len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    nearer = np.where(np.abs(stamps[left] - wanted) <= np.abs(stamps[right] - wanted) + 1e-9, left, right)
    return [int(i) for i in np.unique(nearer)]


def _padded(present: list[int], num: int, pad: Pad) -> list[int]:
    if pad == "none":
        return present
    if pad == "loop":
        return [present[i % len(present)] for i in range(num)]
    return present + [BLACK] * (num - len(present))
