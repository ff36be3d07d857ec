"""Frames through torchcodec where it is installed (it brings no FFmpeg). Asked for by name, never by `auto`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmpo.video.errors import BackendUnavailable, CorruptVideo
from mmpo.video.index import Index
from mmpo.video.records import Decoded
from mmpo.video.source import EncodedVideo


def decode(
    source: EncodedVideo, index: Index, wanted: Sequence[int], *, size: tuple[int, int] | None, threads: int = 0
) -> Decoded:
    """The frames numbered `wanted`, each checked against the index's time. BackendUnavailable where it is not there or
    disagrees, CorruptVideo where it fails on the way."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: it finds no FFmpeg to load
        raise BackendUnavailable(
            source.name, f"torchcodec can't be used ({str(error).splitlines()[0][:120]})", backend="torchcodec"
        ) from error
    numbers = sorted(set(wanted))
    try:
        decoder = VideoDecoder(
            source.data if source.data is not None else str(source.path),
            dimension_order="NHWC",
            num_ffmpeg_threads=threads or 1,
            seek_mode="exact",
        )
        if len(decoder) != len(index):
            raise BackendUnavailable(
                source.name, f"torchcodec counts {len(decoder)} frames, the index {len(index)}", backend="torchcodec"
            )
        batch = decoder.get_frames_at(numbers)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CorruptVideo(source.name, f"torchcodec: {str(error)[:160]}", backend="torchcodec", cause=error) from error
    times = batch.pts_seconds.numpy() - index.info.start_time
    if np.abs(times - index.times[numbers]).max(initial=0.0) > 0.001 + float(index.time_base):
        raise BackendUnavailable(source.name, "torchcodec's times differ from the index", backend="torchcodec")
    pixels = batch.data.numpy()
    if size is not None and pixels.shape[1:3] != (size[1], size[0]):
        from mmpo.video.stills import resized

        return Decoded(frames={number: resized(frame, size) for number, frame in zip(numbers, pixels, strict=True)})
    return Decoded(frames=dict(zip(numbers, pixels, strict=True)))
