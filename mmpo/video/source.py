"""A video file before anything of it is decoded: whether it is one, and its opened container."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.video.errors import BackendUnavailable, CorruptVideo, NotAVideo, VideoNotFound

# Containers that may be opened. Play lists (HLS, DASH, concat) are none: they make FFmpeg open other files.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,gif,ivf,m4v,h264,hevc,obu,"
    "av1,rm,mxf,dv,nut,wav,mp3,flac,aac,swf,yuv4mpegpipe,mpegtsraw,wtv,amr,aiff,caf,vc1,h263,mjpeg"
)
PICTURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"RIFF????WEBP": "a WebP image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
}
CONTAINERS = {
    b"????ftyp": "MP4",
    b"????moov": "MP4",
    b"????mdat": "MP4",
    b"\x1aE\xdf\xa3": "Matroska",
    b"RIFF????AVI ": "AVI",
    b"GIF8": "GIF",
    b"FLV": "FLV",
    b"OggS": "Ogg",
    b"DKIF": "IVF",
    b"\0\0\x01\xba": "MPEG",
    b"0&\xb2u": "ASF",
    b"G": "MPEG-TS",
}


@dataclass(frozen=True)
class EncodedVideo:
    """A file, or a file's bytes. `name` is how messages call it."""

    name: str
    path: Path | None = None
    data: bytes | None = None

    @classmethod
    def of(cls, source: str | Path | bytes | Any) -> EncodedVideo:
        """A path, bytes, or an open binary file (read whole). Raises VideoNotFound."""
        if isinstance(source, bytes):
            return cls("<bytes>", data=source)
        if hasattr(source, "read"):
            return cls(str(getattr(source, "name", "<file>")), data=source.read())
        path = Path(source)
        try:
            if not path.exists():
                raise VideoNotFound(str(source), "no such file")
            if not path.is_file():
                raise VideoNotFound(str(source), "not a file")
            with open(path, "rb") as file:
                file.read(1)
        except (OSError, ValueError) as error:  # no permission; a name that is none
            raise VideoNotFound(str(source)[:200], f"can't be read: {error}", cause=error) from None
        return cls(str(source), path=path.resolve())

    @property
    def size(self) -> int:
        return len(self.data) if self.data is not None else self.path.stat().st_size  # type: ignore[union-attr]

    def head(self, count: int = 4096) -> bytes:
        if self.data is not None:
            return self.data[:count]
        assert self.path is not None
        with open(self.path, "rb") as file:
            return file.read(count)

    def stream(self) -> str | io.BytesIO:
        """The input for PyAV. `file:` keeps FFmpeg from reading a protocol into a file name."""
        return io.BytesIO(self.data) if self.data is not None else f"file:{self.path}"


def require_av() -> Any:
    """The `av` module, or BackendUnavailable."""
    try:
        import av
    except ImportError as error:
        raise BackendUnavailable("-", "PyAV is not installed: pip install av", backend="pyav", cause=error) from None
    return av


@contextmanager
def opened(source: EncodedVideo) -> Iterator[Any]:
    """An open container, closed at the end whatever happens. Raises NotAVideo or CorruptVideo."""
    av = require_av()
    kind = sniff(source.head())
    if kind:
        raise NotAVideo(source.name, f"not a video but {kind}")
    try:
        # Not `options`: before PyAV 18 these are also laid over the streams, and freed for streams that have none where
        # the header lists no streams (MPEG program streams), which ends the process.
        container = av.open(
            source.stream(),
            metadata_errors="ignore",
            container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise _unopened(source, error) from error
    with container:
        yield container


def sniff(head: bytes) -> str:
    """The kind of a file that can't be a video; empty where it may be one."""
    if not head:
        return "an empty file"
    for signature, kind in PICTURES.items():
        if _matches(head, signature):
            return kind
    if _known_container(head):
        return ""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page"
    try:
        decoded = head[:1024].decode("utf-8", errors="strict" if len(head) <= 1024 else "ignore")
    except UnicodeDecodeError:
        return ""
    printable = all(character.isprintable() or character in "\r\n\t\f" for character in decoded)
    return f"text that starts with {decoded[:40]!r}" if printable else ""


def _matches(head: bytes, signature: bytes) -> bool:
    return len(head) >= len(signature) and all(s in (ord("?"), h) for s, h in zip(signature, head, strict=False))


def _known_container(head: bytes) -> str:
    found = next((name for signature, name in CONTAINERS.items() if _matches(head, signature)), "")
    return "" if found == "MPEG-TS" and len(head) > 188 and head[188:189] != b"G" else found


def _unopened(source: EncodedVideo, error: Exception) -> NotAVideo | CorruptVideo:
    head = source.head()
    known = _known_container(head)
    reason = " ".join(str(error).split())[:160]
    if known == "MP4" and not _has_moov(source):
        return CorruptVideo(source.name, "no index (no moov box): an upload that was cut off?", backend="pyav")
    if known:
        return CorruptVideo(source.name, f"a {known} file that can't be opened ({reason})", backend="pyav")
    return NotAVideo(source.name, f"no known container; it starts with {head[:12]!r}", backend="pyav")


def _has_moov(source: EncodedVideo) -> bool:
    """Walk the top-level boxes of an MP4 file."""
    file: Any = io.BytesIO(source.data) if source.data is not None else open(source.path, "rb")  # type: ignore[arg-type] # noqa: SIM115
    with file:
        at, size = 0, source.size
        while at + 8 <= size:
            file.seek(at)
            box = file.read(16)
            length, name = int.from_bytes(box[:4], "big"), box[4:8]
            if name == b"moov":
                return at + length <= size or length == 0
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:
                return False
            at += length
    return False
