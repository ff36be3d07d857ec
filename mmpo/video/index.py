"""The exact index of a video: which frames it shows, when, and which of them decoding can start from.

One pass over the packets without decoding them. Headers are not believed: `stream.frames` is 0 for MPEG-TS and Matroska
and wrong with edit lists, and a frame's time is never its number divided by a rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpo.video.errors import (
    CorruptVideo,
    EmptyVideo,
    NoVideoStream,
    UnsupportedCodec,
    VideoTooLarge,
)
from mmpo.video.records import Deadline, Limits, VideoInfo
from mmpo.video.source import EncodedVideo, opened, require_av

Stamps = npt.NDArray[np.int64]

HDR_TRANSFERS = (16, 18)  # PQ (SMPTE 2084) and HLG (ARIB STD-B67) in FFmpeg's numbering
ROTATION_PACKETS = 256


@dataclass(frozen=True)
class Index:
    """The frames of a video in the order in which they are shown.

    `pts` [n] in units of `time_base`, ascending; `keys` those of the key frames. `trusted` is False where stamps had to
    be made from decoding times, or the container is one whose stamps decoders rewrite; `counted` is True where there
    are none at all and a frame is known only by its place. `reordered` marks an open GOP: frames shown before the key
    frame that precedes them in the file. `edited`: an edit list hides frames.
    """

    info: VideoInfo
    stream: int
    pts: Stamps
    keys: Stamps
    time_base: Fraction
    trusted: bool
    counted: bool
    reordered: bool
    edited: bool
    colours: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """[n] seconds since the first frame."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    @property
    def key_numbers(self) -> list[int]:
        return [int(i) for i in np.searchsorted(self.pts, self.keys)]


def video_stream(container: Any, source: EncodedVideo) -> Any:
    """The default video stream that is no cover picture, else the first. Raises NoVideoStream or UnsupportedCodec."""
    av = require_av()
    flags = av.stream.Disposition
    streams = [stream for stream in container.streams.video if not stream.disposition & flags.attached_pic]
    if not streams:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["no streams"]
        raise NoVideoStream(source.name, f"no video stream, only {', '.join(kinds)}")
    chosen = next((stream for stream in streams if stream.disposition & flags.default), streams[0])
    if chosen.codec_context is None:
        raise UnsupportedCodec(source.name, "no decoder for the video stream", backend="pyav")
    return chosen


def check_size(source: EncodedVideo, width: int, height: int, limits: Limits) -> None:
    """VideoTooLarge for frames over `limits.max_pixels`."""
    if width * height > limits.max_pixels:
        raise VideoTooLarge(source.name, f"frames of {width}x{height} are over {limits.max_pixels} pixels")


def scan(source: EncodedVideo, limits: Limits, deadline: Deadline) -> Index:
    """The exact index. Decodes only until the first frame shows the picture's rotation."""
    av = require_av()
    if source.size > limits.scan_bytes:
        raise VideoTooLarge(
            source.name, f"{source.size} bytes to scan are over {limits.scan_bytes}; raise Limits.scan_bytes"
        )
    with opened(source) as container:
        stream = video_stream(container, source)
        context = stream.codec_context
        check_size(source, context.width, context.height, limits)
        context.thread_type, context.thread_count = "SLICE", 1
        # FFmpeg checks this before it allocates a picture whose size only the stream itself knows.
        context.options = {"max_pixels": str(limits.max_pixels)}
        pts: list[int] = []
        keys: list[int] = []
        first, tries, damage = None, 0, 0
        missing = unstamped = hidden = last_duration = 0
        reordered, current_key, latest = False, None, None
        packets = iter(container.demux(stream))
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:  # the container itself breaks off here
                if not pts:
                    raise CorruptVideo(source.name, f"no packet can be read ({error})", backend="pyav") from error
                damage += 1
                break
            deadline.check("reading the index")
            if first is None and tries < ROTATION_PACKETS:
                tries += 1
                first, failed = _decoded_alone(av, context, packet)
                damage += failed
            if packet.size == 0:
                continue
            if packet.is_discard:
                hidden += 1
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            missing += packet.pts is None
            if stamp is None:
                unstamped += 1
                stamp = len(pts)
            if packet.is_keyframe:
                keys.append(stamp)
                current_key = stamp
            elif current_key is not None and stamp < current_key:
                reordered = True
            if latest is None or stamp >= latest:
                latest, last_duration = stamp, packet.duration or 0
            pts.append(stamp)
            if len(pts) > limits.max_packets:
                raise VideoTooLarge(source.name, f"more than {limits.max_packets} packets")
        seen = _Seen(pts, keys, missing, unstamped, hidden, last_duration, reordered, damage)
        return _index(source, container, stream, seen, first)


def _decoded_alone(av: Any, context: Any, packet: Any) -> tuple[Any, bool]:
    """The frame of one packet, without waiting for those that decoding order puts behind it; and whether it failed."""
    try:
        frames = [*packet.decode(), *(context.decode(None) if packet.size else ())]
    except av.error.FFmpegError:
        return None, True
    finally:
        context.flush_buffers()
    return next(iter(frames), None), False


@dataclass(frozen=True)
class _Seen:
    """Findings of the pass over the packets."""

    pts: list[int]
    keys: list[int]
    missing: int
    unstamped: int
    hidden: int
    last_duration: int
    reordered: bool
    damage: int


def _index(source: EncodedVideo, container: Any, stream: Any, seen: _Seen, first: Any) -> Index:
    pts, keys, last_duration = seen.pts, seen.keys, seen.last_duration
    if not pts:
        raise EmptyVideo(source.name, "the video stream holds no frames", backend="pyav")
    context = stream.codec_context
    warnings: list[str] = []
    stamps = np.unique(np.asarray(pts, dtype=np.int64))
    counted = seen.unstamped > 0
    if counted:
        warnings.append("the stream has no time stamps: frames are counted, their times follow the nominal rate")
    elif seen.missing:
        warnings.append(f"{seen.missing} packets have no time stamp of their own")
    if len(stamps) < len(pts):
        warnings.append(f"{len(pts) - len(stamps)} packets repeat a time stamp")
    if seen.damage:
        warnings.append("damage was found while reading the index")
    if first is None:
        warnings.append("no frame could be decoded while reading the index")
    rotation = 0 if first is None else int(first.rotation)
    if rotation % 90:
        warnings.append(f"a rotation by {rotation} degrees is ignored")
        rotation = 0
    time_base = Fraction(stream.time_base)
    rate = stream.average_rate or stream.base_rate or Fraction(25)
    if counted:
        time_base = 1 / Fraction(rate)
        stamps = np.arange(len(pts), dtype=np.int64)
        keys = []
        last_duration = 1
    width, height = (context.width, context.height) if first is None else (first.width, first.height)
    if not width * height:
        raise CorruptVideo(source.name, "the header names no possible picture size", backend="pyav")
    seconds = (stamps - stamps[0]) * float(time_base)
    steps = np.diff(seconds)
    middle = float(np.median(steps)) if len(steps) else 0.0
    slack = max(2.0 * float(time_base), 0.02 * middle)
    variable = bool(len(steps) and np.abs(steps - middle).max() > slack)
    step = last_duration * float(time_base) or middle or float(1 / Fraction(rate))
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if (len(stamps) != stream.frames) and stream.frames:
        warnings.append(f"the header promises {stream.frames} frames")
    info = VideoInfo(
        path=source.name,
        container=container.format.name,
        codec=context.codec.canonical_name,
        pix_fmt=str(context.pix_fmt),
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        rotation=rotation,
        n_frames=len(stamps),
        key_frames=len(keys),
        duration=float(seconds[-1]) + step,
        avg_fps=(len(stamps) - 1) / float(seconds[-1]) if len(stamps) > 1 and seconds[-1] else float(rate),
        variable_rate=variable,
        start_time=float(stamps[0] * time_base),
        has_audio=bool(container.streams.audio),
        sample_aspect=f"{aspect.numerator}:{aspect.denominator}",
        interlaced=bool(first is not None and first.interlaced_frame),
        hdr=int(context.color_trc or 0) in HDR_TRANSFERS,
        header_frames=stream.frames or None,
        backend="pyav",
        warnings=tuple(warnings),
    )
    return Index(
        info=info,
        stream=stream.index,
        pts=stamps,
        keys=np.unique(np.asarray(keys, dtype=np.int64)),
        time_base=time_base,
        trusted=not seen.missing and info.container != "avi",
        counted=counted,
        reordered=seen.reordered,
        edited=seen.hidden > 0 or int(stamps[0]) < 0,
        colours=(int(context.colorspace or 0), int(context.color_range or 0)),
    )
