"""Errors about a video. Each is a `Quarantined` of its own reason, so builders count it and go on."""

from __future__ import annotations

from mmpo.errors import Quarantined


class VideoError(Quarantined):
    """One video can't be used. `path` names it, `backend` its reporter (empty: mmpo itself), `cause` the error behind.

    The subclasses' `slug` is the stable reason that rejects files count.
    """

    slug = "video_error"

    def __init__(self, path: str, detail: str, *, backend: str = "", cause: BaseException | None = None) -> None:
        super().__init__("decode", self.slug, f"{path}: {detail}")
        self.path, self.backend, self.cause = path, backend, cause
        self.message = detail


class VideoNotFound(VideoError):
    """There is no such file, or it can't be read."""

    slug = "video_missing"


class NotAVideo(VideoError):
    """The file is something else: text, a picture, nothing at all."""

    slug = "not_a_video"


class NoVideoStream(VideoError):
    """Sound, or sound with a cover picture."""

    slug = "no_video_stream"


class EmptyVideo(VideoError):
    """A video stream without frames, or a folder without pictures."""

    slug = "empty_video"


class CorruptVideo(VideoError):
    """The container or a wanted frame is damaged or cut off."""

    slug = "corrupt_video"


class VideoTooLarge(VideoError):
    """Over one of the `Limits`."""

    slug = "video_too_large"


class UnsupportedCodec(VideoError):
    """No decoder here knows the stream."""

    slug = "unsupported_codec"


class DecodeTimeout(VideoError):
    """Not finished within the time limit."""

    slug = "decode_timeout"


class BackendUnavailable(VideoError):
    """The library that was asked for is not installed, or it declines this video."""

    slug = "backend_unavailable"


ERRORS: dict[str, type[VideoError]] = {
    kind.__name__: kind
    for kind in (
        VideoNotFound,
        NotAVideo,
        NoVideoStream,
        EmptyVideo,
        CorruptVideo,
        VideoTooLarge,
        UnsupportedCodec,
        DecodeTimeout,
        BackendUnavailable,
    )
}
