"""Pictures and videos on their way: found under the source's folder, then embedded, copied or referred to."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmpo.data.pair import PreferencePair, Video
from mmpo.data.responses import ResponseGroup
from mmpo.errors import Quarantined
from mmpo.files.atomic import file_digest
from mmpo.files.images import portable_image
from mmpo.files.paths import inside, is_relative_path

MODES = ("embed", "copy", "reference")
# What the generic formats read, in this order; `guard.py` sees that nothing lies under another key.
IMAGE_KEYS = (
    "images", "image", "image_path", "image_paths", "img_path", "img", "imgs", "pictures", "picture", "photos", "photo",
    "image_file", "image_files",
)  # fmt: skip
VIDEO_KEYS = ("videos", "video", "video_path", "video_paths", "video_file", "video_files")
ENCODED = re.compile(r"(?:data:[\w.+-]+/[\w.+-]+;base64,)|(?=/9j/|iVBORw0KGgo|R0lGOD|UklGR)")
KEPT = 16  # pairs about one picture stand together: its bytes are wanted again soon


def below(path: str, root: Path) -> str:
    """The path from `root`: as it is if it is relative, cut if it is a full path below `root`; else Quarantined."""
    if "://" in path:
        raise Quarantined("convert", "url", path)
    if PurePosixPath(path).is_absolute() and Path(path).is_relative_to(root.resolve()):
        path = Path(path).relative_to(root.resolve()).as_posix()
    if not is_relative_path(path):
        raise Quarantined("decode", "path_escape", path)
    return path


def decoded(text: str) -> bytes | None:
    """The content of a data URI or of base64 text that begins as a picture does; None for any other text."""
    start = ENCODED.match(text)
    if start is None or (not start.group() and (len(text) < 60 or "." in text[-6:])):  # a path may begin with /9j/
        return None
    try:
        return base64.b64decode("".join(text[start.end() :].split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def image_of(cell: Any, root: Path) -> bytes | str:
    """The encoded bytes or the path in what a row holds for an image: bytes, base64, a path, `{"bytes", "path"}`."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if not isinstance(cell, (bytes, str)) or not cell:
        raise Quarantined("convert", "no_image", f"expected encoded bytes or a path, got {type(cell).__name__}")
    if isinstance(cell, str):
        return decoded(cell) or below(cell, root)
    return cell


def cells_of(row: Mapping[str, Any], *columns: str) -> list[Any]:
    """The content of the first column that is not empty, as a list (one thing: a list of it); empty if all are."""
    cells: Any = next((row[name] for name in columns if row.get(name) not in (None, "", [])), [])
    return cells if isinstance(cells, list) else [cells]


def images_of(row: Mapping[str, Any], root: Path, *columns: str) -> list[bytes | str]:
    """The images of the first column that holds any; without names, of the usual ones."""
    return [image_of(cell, root) for cell in cells_of(row, *(columns or IMAGE_KEYS))]


class Media:
    """Puts the pictures of pairs where the output wants them.

    `root` is the folder that the paths of pairs start from; they can't leave it. `embed` turns them into bytes, `copy`
    into files `images/HASH.ext` in the output folder, named by content so that a picture is there once, `reference`
    into full paths of the files as they are. `embed` and `copy` decode each picture; what can't be used is quarantined.
    """

    def __init__(self, root: Path, out: Path, mode: str) -> None:
        self.root, self.out, self.mode = root, out, mode
        self._recent: OrderedDict[str, bytes | str] = OrderedDict()

    def placed(self, pair: PreferencePair | ResponseGroup) -> dict[str, Any]:
        """The fields `images`, `rejected_images` and `videos` of the pair (or group), placed."""
        rejected = pair.rejected_images if isinstance(pair, PreferencePair) else None
        videos = pair.videos
        return {
            "images": [self.image(image) for image in pair.images],
            "rejected_images": None if rejected is None else [self.image(image) for image in rejected],
            "videos": None if videos is None else [self._video(video) for video in videos],
        }

    def image(self, source: bytes | str) -> bytes | str:
        if isinstance(source, bytes):
            return self._placed(source)
        if source not in self._recent:
            self._recent[source] = self._placed(source)
            if len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(source)
        return self._recent[source]

    def _placed(self, source: bytes | str) -> bytes | str:
        if self.mode == "reference":
            if isinstance(source, bytes):
                raise Quarantined("convert", "embedded_image", "there is no file to refer to; copy images instead")
            return str(self._file(source))
        data = portable_image(source, root=self.root)
        return data if self.mode == "embed" else self._stored("images", data, _extension(data))

    def _video(self, video: Video) -> Video:
        if video.get("path") is not None:
            file = self._file(video["path"])
            if self.mode == "reference":
                return {**video, "path": str(file)}
            name = f"videos/{file_digest(file)}{file.suffix.lower()}"
            if not (self.out / name).exists():
                (self.out / "videos").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self.out / name)
            return {**video, "path": name}
        return {**video, "frames": [self.image(frame) for frame in video["frames"]]}

    def _file(self, path: str) -> Path:
        file = inside(self.root, path)
        if not file.is_file():
            raise Quarantined("decode", "missing", path)
        return file

    def _stored(self, folder: str, data: bytes, extension: str) -> str:
        name = f"{folder}/{hashlib.blake2b(data, digest_size=16).hexdigest()}{extension}"
        file = self.out / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return name


def _extension(data: bytes) -> str:
    """Of the formats that `portable_image` returns."""
    return ".png" if data.startswith(b"\x89PNG") else ".webp" if data.startswith(b"RIFF") else ".jpg"
