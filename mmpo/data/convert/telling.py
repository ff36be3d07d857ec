"""Detection of the pictures, videos and sounds that a row holds or names, whatever the keys are called.

Keys are judged by their names (`img_path`, `videos`, `photoFile`) and their content (the path of a media file, encoded
bytes, base64, `{"bytes", "path"}`), so that a key nobody thought of is noticed too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mmpo.data.convert.media import decoded
from mmpo.outside import json_of

SUFFIXES = {
    "image": "jpg jpeg jpe jfif png webp gif bmp tif tiff heic heif avif jp2 ppm pgm pnm svg dcm dicom",
    "video": "mp4 m4v mov avi mkv webm flv wmv mpg mpeg 3gp ogv ts",
    "audio": "wav mp3 flac ogg oga opus m4a aac wma aiff aif amr mid",
}
KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
MEDIA_PATH = re.compile(rf"[^\n\r\0]{{0,4000}}\.({'|'.join(KIND_OF_SUFFIX)})(?:[?#][^\s]*)?", re.IGNORECASE)
SIGNATURES = {
    b"ID3": "audio", b"fLaC": "audio", b"OggS": "audio", b"\xff\xfb": "audio", b"\x1aE\xdf\xa3": "video",
}  # fmt: skip

# Words of keys. Where one of the second kind comes last, the key describes media and does not hold them.
WORDS = {
    "image": re.compile(
        r"(?:.*image(?:s|ry)?|image.*|imgs?|img.*|.*imgs?|pics?|picture.*|photo.*|pixels?|screenshots?|thumbnails?|"
        r"figures?|bitmaps?|jpe?gs?|pngs?|scans?|xrays?|radiographs?|dicoms?|visuals?|media|attachments?)"
    ),
    "video": re.compile(r"(?:.*video.*|vids?|clips?|movies?|films?|footage|frames?|mp4s?|gifs?)"),
    "audio": re.compile(r"(?:.*audio.*|sounds?|speech|waves?|wavs?|mp3s?|voices?|recordings?|waveforms?|music)"),
}
ABOUT = re.compile(
    r"captions?|desc|descriptions?|width|height|sizes?|wh|types?|scores?|labels?|class|"
    r"classes|categor(?:y|ies)|texts?|questions?|prompts?|answers?|source|dataset|split|hash|md5|sha\d*|phash|duration|"
    r"fps|length|title|rationale|ratings?|objects|tags?|tokens?|format|quality|resolution|ratio|similarity|models?|"
    r"aspect|index|license"
)
COUNTING = re.compile(r"counts?|num|number|n|has|is|no")
REFERENCE = re.compile(r"ids?|idx|uid|key")
# A single one of these beside a picture is another name of it, as RLAIF-V's `image_path` is.
ALIAS = re.compile(
    r"images?|imgs?|picture|photo|pic|video|file|filename|name|paths?|url|uri|original|orig|coco|flickr|ids?|uid|key"
)


@dataclass(frozen=True)
class Medium:
    """One picture, video or sound in a row: the key it is under, and what there is to compare it by."""

    key: str
    kind: str
    path: str | None = None
    data: bytes | None = None
    reference: bool = False  # an id, which says that there is a picture and not where

    def __str__(self) -> str:
        shown = f" ({self.path[:80]})" if self.path else ""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} under `{self.key}`{shown}"


def kind_of_path(text: str) -> str | None:
    """`image`, `video` or `audio` for text that is the path or URL of a media file and nothing else."""
    found = MEDIA_PATH.fullmatch(text.strip())
    return KIND_OF_SUFFIX[found.group(1).lower()] if found and _one_path(text) else None


def _one_path(text: str) -> bool:
    """A sentence may end with a file's name ("Look at the chart in a.png"); a path has few words after its slashes."""
    return len(PurePosixPath(text).name.split()) <= 4 and "? " not in text and ", " not in text


def kind_of_key(key: str) -> tuple[str | None, bool]:
    """The kind of media that a key's name refers to, and whether it is an id of one rather than the thing itself.

    The last word decides: `image_caption` is a caption, `caption_image` an image.
    """
    words = words_of(key)
    if any(COUNTING.fullmatch(word) for word in words):
        return None, False
    for number in range(len(words) - 1, -1, -1):
        if ABOUT.fullmatch(words[number]):
            return None, False
        for kind, pattern in WORDS.items():
            if pattern.fullmatch(words[number]):
                return kind, any(REFERENCE.fullmatch(word) for word in words[number + 1 :])
    return None, False


def words_of(key: str) -> list[str]:
    return re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())


def media_in(row: Mapping[str, Any]) -> list[Medium]:
    """Every picture, video and sound that a row holds or names, whatever the key."""
    return [medium for key, value in row.items() for medium in _walk(value, str(key), *kind_of_key(str(key)))]


def _walk(value: Any, key: str, kind: str | None, reference: bool, depth: int = 0) -> Iterator[Medium]:
    if value is None or isinstance(value, bool) or depth > 8:
        return
    if isinstance(value, (bytes, bytearray, memoryview)):
        if len(value):
            yield Medium(key, kind or _kind_of_bytes(bytes(value[:16])), data=bytes(value))
    elif isinstance(value, str):
        yield from _walk_text(value, key, kind, reference, depth)
    elif isinstance(value, (int, float)):
        if kind is not None and reference:
            yield Medium(key, kind, path=str(value), reference=True)
    elif isinstance(value, Mapping):
        if "sampling_rate" in value or "array" in value:
            yield Medium(key, "audio" if "sampling_rate" in value else kind or "image")
        elif value.get("bytes") and isinstance(value["bytes"], (bytes, str)):
            path = value.get("path") if isinstance(value.get("path"), str) else None
            content = value["bytes"] if isinstance(value["bytes"], bytes) else value["bytes"].encode(errors="replace")
            found = kind or (kind_of_path(path) if path else None) or _kind_of_bytes(content[:16])
            yield Medium(key, found, path=path, data=content)
        else:
            for name, inner in value.items():
                own, own_reference = kind_of_key(str(name))
                about = any(ABOUT.fullmatch(word) for word in words_of(str(name))[-1:])
                yield from _walk(inner, f"{key}.{name}" if depth < 3 else key, own or (None if about else kind),
                                 own_reference, depth + 1)  # fmt: skip
    elif isinstance(value, (list, tuple)):
        if value and _are_pixels(value) and kind is not None and not reference:
            yield Medium(key, kind)
        else:
            for inner in value:
                yield from _walk(inner, key, kind, reference, depth + 1)
    elif type(value).__module__.startswith("PIL."):
        yield Medium(key, kind or "image")


def _walk_text(text: str, key: str, kind: str | None, reference: bool, depth: int) -> Iterator[Medium]:
    if not text.strip():
        return
    if (content := decoded(text)) is not None:
        yield Medium(key, kind or _kind_of_bytes(content[:16]), data=content)
        return
    found = kind_of_path(text)
    if found is None and text.lstrip()[:1] in "[{" and len(text) < 200_000:
        try:
            inner = json_of(text)
        except ValueError:
            inner = None
        if isinstance(inner, (list, dict)):
            yield from _walk(inner, key, kind, reference, depth + 1)
            return
    if found is not None:
        # A recording may be in a container of the other kind; what the key says counts.
        yield Medium(key, kind or found, path=text)
    elif kind is not None and "\n" not in text and _one_path(text):
        yield Medium(key, kind, path=text, reference=reference)


def _kind_of_bytes(start: bytes) -> str:
    if start[:4] == b"RIFF" and start[8:12] in (b"WAVE", b"AVI "):
        return "audio" if start[8:12] == b"WAVE" else "video"
    if start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"heic", b"mif1"):
        return "audio" if start[8:11] == b"M4A" else "video"
    return next((kind for mark, kind in SIGNATURES.items() if start.startswith(mark)), "image")


def _are_pixels(values: Sequence[Any]) -> bool:
    inner: Any = values
    for _ in range(2):
        if not (isinstance(inner, (list, tuple)) and inner):
            return False
        inner = inner[0]
    return isinstance(inner, (int, float, list, tuple)) and not isinstance(inner, bool)
