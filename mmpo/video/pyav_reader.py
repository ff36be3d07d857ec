"""Exact frames through PyAV: seek to the key frame before a wanted frame, decode on, and take it by its time stamp.

Two ways to the same frames. The quick one leaves out what no wanted frame depends on (pictures that nothing refers to,
everything behind the last wanted one) and decodes on several threads. The careful one decodes every packet by itself
on slices, goes on behind damage and knows which frames it touches. Whatever the quick way does not deliver cleanly is
asked of the careful one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpo.video.errors import VideoTooLarge
from mmpo.video.index import Index, check_size
from mmpo.video.records import Deadline, Decoded, Limits, Pixels
from mmpo.video.source import EncodedVideo, opened, require_av

NEAR = 4
"""Wanted frames at most this many frames before the next key frame are reached by decoding on, not by seeking."""

# H.264 marks pictures that no other refers to (nal_ref_idc = 0). The marks of other codecs hold within a layer only.
SKIPPING = ("h264",)
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
SEEKABLE = (*INDEXED, "avi", "mpegts", "flv", "gif")
"""Elsewhere (MPEG program streams, say) the stamps behind a seek are not those of reading from the beginning."""
ERRORS_GIVEN_UP = 10_000
EVERYTHING = -1


@dataclass(frozen=True)
class DecodingRun:
    """Wanted stamps that one stretch of decoding reaches. `key` is where it may start; None: at the beginning."""

    key: int | None
    wanted: tuple[int, ...]


def decode(
    source: EncodedVideo,
    index: Index,
    wanted: Sequence[int],
    *,
    size: tuple[int, int] | None,
    limits: Limits,
    deadline: Deadline,
    threads: int = 0,
    careful: bool = False,
) -> Decoded:
    """The frames numbered `wanted`, upright, resized to `size` (width, height) if given. Those that can't be decoded
    are left out; those that damage may have touched are in `corrupt`. `threads` 0: as many as there are cores, up to 4.
    """
    numbers = sorted(set(wanted))
    found = Decoded()
    if index.counted:
        _count_through(source, index, numbers, found, size, limits, deadline)
        return found
    if not careful:
        quick = index.trusted and index.info.container in INDEXED and not index.info.interlaced
        reader = _Reader(source, index, found, size, limits, deadline, _threads(threads), quick=quick, careful=False)
        reader.read(numbers, 0 if index.info.container in SEEKABLE else EVERYTHING)
    for back in _ways_back(index):
        doubtful = [number for number in numbers if number not in found.frames or number in found.corrupt]
        if doubtful:
            found.errors = 0
            found.corrupt.clear()
            reader = _Reader(source, index, found, size, limits, deadline, 1, quick=False, careful=True)
            reader.read(doubtful, back)
    return found


def _ways_back(index: Index) -> tuple[int, ...]:
    """From how many key frames before the nearest one the careful way decodes. In an open group the pictures behind a
    key frame may lean on those before it."""
    if index.info.container not in SEEKABLE:
        return (EVERYTHING,)
    if index.reordered:
        return (1, EVERYTHING)
    return (0,) if index.info.container in INDEXED else (0, EVERYTHING)


def _threads(threads: int) -> int:
    return threads or min(4, os.cpu_count() or 1)


def decoder_options(limits: Limits) -> dict[str, str]:
    """FFmpeg's own check of the picture size, before it allocates; and no concealment: what its decoder sees as damage
    becomes an error instead of invented pixels."""
    return {"max_pixels": str(limits.max_pixels), "err_detect": "explode"}


def runs(index: Index, wanted: Sequence[int]) -> list[DecodingRun]:
    """Wanted frame numbers, ascending, as stretches between seeks."""
    stretches: list[tuple[int | None, list[int]]] = []
    last_number = last_key = -1
    for number in wanted:
        stamp = int(index.pts[number])
        before = int(np.searchsorted(index.keys, stamp, side="right")) - 1
        key_number = int(np.searchsorted(index.pts, index.keys[before])) if before >= 0 else 0
        if stretches and (before == last_key or key_number - last_number <= NEAR):
            stretches[-1][1].append(stamp)
        else:
            stretches.append((int(index.keys[before]) if before >= 0 else None, [stamp]))
        last_number, last_key = number, before
    return [DecodingRun(key, tuple(stamps)) for key, stamps in stretches]


class _Reader:
    """One open container, read run by run."""

    def __init__(
        self,
        source: EncodedVideo,
        index: Index,
        found: Decoded,
        size: tuple[int, int] | None,
        limits: Limits,
        deadline: Deadline,
        threads: int,
        *,
        quick: bool,
        careful: bool,
    ) -> None:
        self.av = require_av()
        self.source, self.index, self.found = source, index, found
        self.size, self.limits, self.deadline = size, limits, deadline
        self.threads, self.quick, self.careful = threads, quick, careful
        self.skipping = quick and index.info.codec in SKIPPING
        self.numbers = {int(stamp): number for number, stamp in enumerate(index.pts)}

    def read(self, wanted: Sequence[int], back: int = 0) -> None:
        """Decode `wanted`, each run from `back` key frames before the nearest one."""
        with opened(self.source) as container:
            stream = container.streams[self.index.stream]
            context = stream.codec_context
            context.thread_type = "SLICE" if self.careful else "AUTO"
            context.thread_count = self.threads
            context.options = decoder_options(self.limits)
            fresh = True
            stretches = runs(self.index, wanted)
            if back == EVERYTHING:
                stretches = [DecodingRun(None, tuple(stamp for run in stretches for stamp in run.wanted))]
            for run in stretches:
                fresh = self._run(container, stream, run, fresh, back)

    def _run(self, container: Any, stream: Any, run: DecodingRun, fresh: bool, back: int) -> bool:
        """Decode one run; returns whether the container still stands at its beginning (never, once it was read)."""
        for start in self._starts(run.key, back):
            if not (fresh and start is None):
                self._seek(container, stream, start)
            fresh = False
            packets = self._packets(container, stream)
            first = next(packets, None)
            late = first is None or (start is not None and _stamp(first) is not None and _stamp(first) > run.key)
            if late and start is not None:  # MPEG-TS may land behind the wanted key frame
                continue
            if first is not None:
                self._feed(stream.codec_context, _chain(first, packets), run, start)
            return False
        return False

    def _starts(self, key: int | None, back: int) -> Iterator[int | None]:
        """Targets of seeking: the key frame (or one `back` before it), then the ones before it, then the beginning."""
        if key is not None:
            before = int(np.searchsorted(self.index.keys, key)) - back
            step = 0
            while before - step >= 0:
                yield int(self.index.keys[before - step])
                step = step * 2 or 1
        yield None

    def _seek(self, container: Any, stream: Any, start: int | None) -> None:
        target = start if start is not None else int(self.index.pts[0]) - round(10 / self.index.time_base)
        self.found.seeks += 1
        try:
            container.seek(target, stream=stream, backward=True)
        except self.av.error.FFmpegError:
            container.seek(0)

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """Packets with content; ends where the container ends or breaks off."""
        packets = iter(container.demux(stream))
        while True:
            self.deadline.check("decoding")
            try:
                packet = next(packets)
            except (StopIteration, self.av.error.FFmpegError):
                return
            if packet.size:
                yield packet

    def _feed(self, context: Any, packets: Iterator[Any], run: DecodingRun, start: int | None) -> None:
        unsent, left = set(run.wanted), set(run.wanted)
        damaged = damaged_before = False
        current_key: int | None = None
        errors = 0
        # Frames come in the order of display, so nothing wanted follows one that is shown after the last wanted one.
        end = run.wanted[-1]
        for packet in packets:
            stamp = _stamp(packet)
            if packet.is_keyframe:
                current_key, damaged_before, damaged = stamp, damaged, False
            if self.skipping:
                context.skip_frame = "DEFAULT" if stamp in unsent else "NONREF"
            try:
                frames = packet.decode()
            except self.av.error.FFmpegError:
                frames = []
                # Shown before the key frame where decoding starts: it refers to what came earlier, and is not wanted.
                if start is None or stamp is None or stamp >= start:
                    errors += 1
                    damaged = True
                if errors > ERRORS_GIVEN_UP:
                    break
            leading = current_key is not None and stamp is not None and stamp < current_key
            if (damaged_before if leading else damaged) and stamp in unsent:
                self.found.corrupt.add(self.numbers[stamp])
            unsent.discard(stamp)
            shown = self._take(frames, left)
            if self.quick and not unsent:
                break
            if (shown is not None and shown > end) or not left:
                break
        if left:
            try:
                self._take(context.decode(None), left)
            except self.av.error.FFmpegError:
                errors += 1
        if self.skipping:
            context.skip_frame = "DEFAULT"
        self.found.errors += errors
        if errors and not self.careful:
            self.found.corrupt.update(self.numbers[stamp] for stamp in run.wanted)

    def _take(self, frames: Sequence[Any], left: set[int]) -> int | None:
        """Keep the wanted ones; the largest stamp seen."""
        shown = None
        for frame in frames:
            stamp = frame.pts
            if stamp is None:
                continue
            shown = stamp if shown is None else max(shown, stamp)
            if stamp in left:
                left.discard(stamp)
                number = self.numbers[stamp]
                self.found.frames[number] = picture(frame, self.source, self.index, self.size, self.limits, self.found)
                if frame.is_corrupt:
                    self.found.corrupt.add(number)
        return shown


def _stamp(packet: Any) -> Any:
    return packet.pts if packet.pts is not None else packet.dts


def _chain(first: Any, packets: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from packets


def _count_through(
    source: EncodedVideo,
    index: Index,
    wanted: Sequence[int],
    found: Decoded,
    size: tuple[int, int] | None,
    limits: Limits,
    deadline: Deadline,
) -> None:
    """Streams without time stamps: decode from the beginning and count."""
    av = require_av()
    left = set(wanted)
    number = 0
    with opened(source) as container:
        stream = container.streams[index.stream]
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.options = decoder_options(limits)
        for packet in container.demux(stream):
            deadline.check("decoding")
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                found.errors += 1
                continue
            for frame in frames:
                if number in left:
                    left.discard(number)
                    found.frames[number] = picture(frame, source, index, size, limits, found)
                    if frame.is_corrupt or found.errors:
                        found.corrupt.add(number)
                number += 1
            if not left:
                return


def picture(
    frame: Any, source: EncodedVideo, index: Index, size: tuple[int, int] | None, limits: Limits, found: Decoded
) -> Pixels:
    """A decoded frame as upright RGB [h, w, 3], of `size` (or, where a stream changes its size, of the index's)."""
    check_size(source, frame.width, frame.height, limits)
    rotation = int(frame.rotation) if frame.rotation % 90 == 0 else 0
    upright = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
    target = size or (index.info.width, index.info.height)
    if upright != (index.info.width, index.info.height) and "the picture changes its size" not in found.warnings:
        found.warnings.append("the picture changes its size")
    if target[0] * target[1] > limits.max_pixels:
        raise VideoTooLarge(source.name, f"{target[0]}x{target[1]} was asked for")
    if upright == target:
        pixels = frame.to_ndarray(format="rgb24")
    else:
        stored = (target[1], target[0]) if rotation % 180 else target
        shrinking = target[0] < upright[0]
        scaled = frame.reformat(
            width=stored[0], height=stored[1], format="rgb24", interpolation="AREA" if shrinking else "BICUBIC"
        )
        pixels = scaled.to_ndarray()
    if rotation:
        pixels = np.rot90(pixels, k=rotation // 90 % 4)
    return np.ascontiguousarray(pixels)
