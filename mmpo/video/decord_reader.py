"""Frames through decord, in a process of its own, and only where the exact index proves them right.

decord 0.6 is silently wrong on MPEG-TS, on AVI with B-frames and with edit lists, its native loops hold the GIL for
ever on some damaged files, and it takes errors inside a picture for a picture. So it is asked only about what it is
known to get right, its count and every time stamp are compared with the index, and any complaint of its decoder counts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

from mmpo.video.errors import BackendUnavailable
from mmpo.video.index import Index
from mmpo.video.records import Deadline, Decoded
from mmpo.video.source import EncodedVideo
from mmpo.video.subprocess_reader import shared_process

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
CODECS = ("h264", "vp9", "hevc")
PIXELS = ("yuv420p",)
COLOURS = (0, 2, 5, 6)  # RGB or unspecified, BT.470BG, SMPTE 170M: what decord takes everything for
FULL_RANGE = 2


def unsupported_reason(source: EncodedVideo, index: Index) -> str:
    """Why decord may not read this video; empty where it may."""
    info = index.info
    reasons = (
        (importlib.util.find_spec("decord") is None, "decord is not installed"),
        (source.path is None, "decord reads files only"),
        (info.container not in CONTAINERS, f"decord is not trusted with {info.container}"),
        (info.codec not in CODECS, f"decord is not trusted with {info.codec}"),
        (info.pix_fmt not in PIXELS, f"decord is not trusted with {info.pix_fmt}"),
        (index.edited, "an edit list hides frames"),
        (index.counted or not index.trusted, "the time stamps had to be made"),
        (index.reordered, "open groups of pictures"),
        (info.interlaced, "interlaced"),
        (index.colours[0] not in COLOURS or index.colours[1] == FULL_RANGE, "decord ignores its colour space"),
        (bool(info.warnings), "the index has warnings"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def decode(
    source: EncodedVideo,
    index: Index,
    wanted: Sequence[int],
    *,
    size: tuple[int, int] | None,
    deadline: Deadline,
    threads: int = 0,
) -> Decoded:
    """The frames numbered `wanted`. Raises BackendUnavailable where decord fails, complains, or disagrees with the
    index; DecodeTimeout where it had to be killed."""
    numbers = sorted(set(wanted))
    request = {"op": "decord", "path": str(source.path), "frames": numbers, "size": size, "threads": threads}
    reply, pixels = shared_process().ask(request, deadline)
    if "error" in reply:
        raise BackendUnavailable(source.name, f"decord: {reply['error']}", backend="decord")
    if reply["count"] != len(index):
        raise BackendUnavailable(
            source.name, f"decord counts {reply['count']} frames, the index {len(index)}", backend="decord"
        )
    stamps = np.asarray(reply["times"], dtype=np.float64)
    expected = index.times[numbers]
    slack = 0.001 + float(index.time_base)
    if np.abs(stamps - reply["first"] - expected).max(initial=0.0) > slack:
        raise BackendUnavailable(source.name, "decord's time stamps differ from the index", backend="decord")
    return Decoded(frames=dict(zip(numbers, pixels, strict=True)))
