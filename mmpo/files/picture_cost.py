"""Limits on the cost of decoding a picture file. Limits on pixels do not bound it: a small progressive JPEG can hold
thousands of scans over all of its blocks, and Pillow joins the parts of a comment one by one.

Two limits stop that. Counts are read off the markers before anything is decoded (some microseconds for a photograph),
and `Timed` ends a decoder that has used too much processor time at its next read; Pillow's decoders are fed 64 KiB at a
time, so between two reads there is only work that the counts bound.
"""

from __future__ import annotations

import io
import time

from mmpo.errors import Quarantined

MAX_SECONDS = 20.0
"""Processor time for one picture; 50 million pixels of any format take less than three."""
MAX_SCANS = 100
"""Encoders write about ten in a progressive JPEG, at most some forty."""
MAX_SCANNED = 1_000_000_000
"""Scans times pixels."""
MAX_METADATA = 32 << 20
"""Bytes before the first pixels; depth maps of telephones have some megabytes."""

_START, _SCAN = b"\xff\xd8", b"\xff\xda"


class Timed(io.BytesIO):
    """Bytes that can be read for `MAX_SECONDS` of this thread's processor time; then Quarantined `too_slow`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._end:
            raise Quarantined("decode", "too_slow", f"more than {MAX_SECONDS:g} s of processor time")
        return super().read(size)


def check_scans(data: bytes, pixels: int) -> None:
    """Quarantined `too_many_scans` for a JPEG that goes over its pixels more often than any encoder makes it."""
    # In coded pixels 0xff is always followed by a zero or a restart: only headers are counted, also thumbnails too.
    scans = data.count(_SCAN) if data.startswith(_START) else 0
    if scans > MAX_SCANS or (scans > 10 and scans * pixels > MAX_SCANNED):
        raise Quarantined("decode", "too_many_scans", f"{scans} scans of {pixels} pixels")


def check_metadata(data: bytes) -> None:
    """Quarantined `too_much_metadata` for the segments before the pixels of a JPEG."""
    place = 2
    while data.startswith(_START) and data[place : place + 1] == b"\xff" and data[place : place + 2] != _SCAN:
        place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
        if place > MAX_METADATA:
            raise Quarantined("decode", "too_much_metadata", f"over {MAX_METADATA >> 20} MiB before the pixels")
