"""Exact frames with exact times from any video file. See docs/video.md.

from mmpo.video import probe, read_frames

    info = probe("clip.mp4")
    frames = read_frames("clip.mp4", num=8)
"""

from mmpo.video.errors import (
    BackendUnavailable,
    CorruptVideo,
    DecodeTimeout,
    EmptyVideo,
    NotAVideo,
    NoVideoStream,
    UnsupportedCodec,
    VideoError,
    VideoNotFound,
    VideoTooLarge,
)
from mmpo.video.read import OnError, VideoBackend, VideoSource, frame_times, probe, read_frames
from mmpo.video.records import Frames, Limits, ReadReport, VideoInfo
from mmpo.video.sampling import SAMPLINGS, Pad, sample

__all__ = [
    "SAMPLINGS",
    "BackendUnavailable",
    "CorruptVideo",
    "DecodeTimeout",
    "EmptyVideo",
    "Frames",
    "Limits",
    "NoVideoStream",
    "NotAVideo",
    "OnError",
    "Pad",
    "ReadReport",
    "UnsupportedCodec",
    "VideoBackend",
    "VideoError",
    "VideoInfo",
    "VideoNotFound",
    "VideoSource",
    "VideoTooLarge",
    "frame_times",
    "probe",
    "read_frames",
    "sample",
]
