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
from mmpo.video.read import VideoBackend, VideoSource, frame_times, probe, read_frames
from mmpo.video.records import Damage, Frames, Limits, OnError, ReadReport, VideoInfo
from mmpo.video.sampling import SAMPLINGS, Pad, Sampling, sample

__all__ = [
    "SAMPLINGS",
    "BackendUnavailable",
    "CorruptVideo",
    "Damage",
    "DecodeTimeout",
    "EmptyVideo",
    "Frames",
    "Limits",
    "NoVideoStream",
    "NotAVideo",
    "OnError",
    "Pad",
    "ReadReport",
    "Sampling",
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
