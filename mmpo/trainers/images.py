"""The images of a set of pairs, and their videos: each kept once, decoded and prepared when a batch needs it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from mmpo.data.reader import PairDataset
from mmpo.errors import Quarantined
from mmpo.files.images import load_image, open_picture, read_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import ProcessedImages, process_images, process_video

CHECKED_TOGETHER = 64  # images whose bytes are in memory together while all are looked through


@dataclass(frozen=True)
class StoredImage:
    """An image that stays in its data set on disk: `dataset[row]`, its `column` (images, rejected_images or videos),
    `place` in the list; of a frame its video's place and its own."""

    dataset: PairDataset
    row: int
    column: str
    place: tuple[int, ...]

    def read(self) -> bytes:
        """The encoded bytes. A few rows around it are read with it, so reading in order is quick."""
        found = getattr(self.dataset[self.row], self.column)[self.place[0]]
        image: bytes = found["frames"][self.place[1]] if self.column == "videos" else found
        return image


class StoredClip(NamedTuple):
    """A video: the keys of its frames, which are images of the store, and their times."""

    frames: tuple[str, ...]
    times: tuple[float, ...]


class ShownImage(NamedTuple):
    """An image or a clip as a prompt shows it: `among_several` where the family prepares an image differently with
    others."""

    key: str
    among_several: bool = False


class ImageStore:
    """Encoded images by content, and a bounded cache of what the processor makes of them. A clip is a video made of
    such images; it has a key like an image and takes the place of one.

    Encoded bytes are read from the data set or file they lie in when needed; only those that lie nowhere else are kept
    in memory, once per distinct image. Prepared tensors are kept until `cache_bytes` are used, then prepared again each
    time: every epoch visits every image once, so replacing entries of a full cache would only lose hits. An image, or a
    clip's frame, of more than `max_pixels` is scaled down to that before anything else sees it; `scaled` holds the keys
    of those.
    """

    def __init__(self, vlm: VLM, cache_bytes: int, max_pixels: int | None = None) -> None:
        self._vlm = vlm
        self._room = cache_bytes
        self._max_pixels = max_pixels
        self._sources: dict[str, tuple[bytes | str | StoredImage, Path | None]] = {}
        self._clips: dict[str, StoredClip] = {}
        self._limits: dict[str, int] = {}
        self._originals: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._prepared: dict[ShownImage, ProcessedImages] = {}
        self._tokens: dict[ShownImage, int] = {}
        self._contents: dict[str, str] = {}
        self.scaled: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A worker process prepares images for itself, and has no use for weights."""
        return {**vars(self), "_vlm": self._vlm.without_weights(), "_prepared": {}}

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: bytes | str, root: Path | None = None, *, at: StoredImage | None = None) -> str:
        """Register an image (encoded bytes, or a path below `root`) and return its key. Equal bytes get equal keys.

        `at` says where the bytes can be read again; they are then not kept.
        """
        if isinstance(source, bytes):
            key = hashlib.blake2b(source, digest_size=16).hexdigest()
            self._sources.setdefault(key, (at or source, None))
        else:
            key = f"{root}:{source}"
            self._sources.setdefault(key, (source, root))
        return key

    def add_clip(self, frames: Sequence[str], times: Sequence[float]) -> str:
        """Register a video by the keys of its frames, and return its key. The same frames at the same times get the
        same one."""
        clip = StoredClip(tuple(frames), tuple(times))
        key = "clip:" + hashlib.blake2b(json.dumps(clip).encode(), digest_size=16).hexdigest()
        self._clips[key] = clip
        return key

    def is_clip(self, key: str) -> bool:
        return key in self._clips

    def kind(self, key: str) -> Literal["image", "video"]:
        """The prompt part that shows it."""
        return "video" if key in self._clips else "image"

    def clip(self, key: str) -> StoredClip:
        return self._clips[key]

    def stills(self, key: str) -> tuple[str, ...]:
        """The keys of a clip's frames; an image is its own."""
        return self._clips[key].frames if key in self._clips else (key,)

    def originals(self, keys: Iterable[str]) -> list[str]:
        """The images of these keys as registered: a clip's frames, and none scaled to a limit of its own."""
        stills = (still for key in keys for still in self.stills(key))
        return list(dict.fromkeys(self._originals.get(still, still) for still in stills))

    def source(self, key: str) -> tuple[bytes | str, Path | None]:
        """The encoded bytes of an image, or its path and the root of that path."""
        source, root = self._sources[key]
        return (source.read() if isinstance(source, StoredImage) else source), root

    def picture(self, key: str) -> Image.Image:
        """The decoded image, RGB, within its limit. Raises `Quarantined` if it can't be decoded."""
        source, root = self.source(key)
        return self._within(key, load_image(source, root=root))

    def fitted(self, keys: Sequence[str], pixels: int | None) -> tuple[str, ...]:
        """Keys of the same images and clips, all scaled down alike where together they have more than `pixels`; a clip
        has those of its frames. Raises `Quarantined` for an image that can't be opened."""
        if pixels is None or not keys:
            return tuple(keys)
        stills = [still for key in keys for still in self.stills(key)]
        own = {key: min(math.prod(self.size(key)), self._limit(key) or math.inf) for key in stills}
        if (total := sum(own[key] for key in stills)) <= pixels:
            return tuple(keys)
        limited = {key: self._limited(key, int(size * pixels / total)) for key, size in own.items()}
        return tuple(
            self.add_clip([limited[frame] for frame in clip.frames], clip.times)
            if (clip := self._clips.get(key))
            else limited[key]
            for key in keys
        )

    def size(self, key: str) -> tuple[int, int]:
        """Width and height as the file has them. Raises `Quarantined` if it can't be opened."""
        if key not in self._sizes:
            source, root = self.source(key)
            encoded = read_image(source, root=root)
            try:
                with open_picture(encoded) as image:
                    self._sizes[key] = image.size
            except Exception:  # its error has the proper reason there
                self._sizes[key] = load_image(encoded).size
        return self._sizes[key]

    def _limit(self, key: str) -> int | None:
        """The most pixels that the image may have."""
        return self._limits.get(key, self._max_pixels)

    def _limited(self, key: str, pixels: int) -> str:
        """The key of the same image with a limit of its own."""
        found = f"{key}@{max(1, pixels)}"
        if found not in self._sources:
            self._sources[found] = self._sources[key]
            self._sizes[found] = self.size(key)
            self._limits[found] = max(1, pixels)
            self._originals[found] = key
        return found

    def _within(self, key: str, picture: Image.Image) -> Image.Image:
        limit = self._limit(key)
        if limit is None or picture.width * picture.height <= limit:
            return picture
        self.scaled.add(key)
        return scaled_down(picture, limit)

    def shown(self, keys: Sequence[str]) -> tuple[ShownImage, ...]:
        """The images and clips of one prompt. A clip does not count as a further image."""
        stills = [key for key in keys if key not in self._clips]
        several = len(stills) > 1 and self._vlm.family.count_key is not None
        return tuple(ShownImage(key, several and key not in self._clips) for key in keys)

    def prepared(self, key: str, among_several: bool = False) -> ProcessedImages:
        """One image or clip as the processor made it (see `shown`). Raises `Quarantined` if it can't be decoded."""
        place = ShownImage(key, among_several)
        if place in self._prepared:
            return self._prepared[place]
        pictures = [self.picture(still) for still in self.stills(key)]
        if clip := self._clips.get(key):
            image = process_video(self._vlm, pictures, clip.times)
        else:
            image = process_images(self._vlm, pictures, several=among_several)
        self._tokens[place] = self._count(image)
        size = sum(tensor.nbytes for tensor in image.tensors.values())
        if size <= self._room:
            self._room -= size
            self._prepared[place] = image
        return image

    def content(self, key: str) -> str:
        """A name for the encoded bytes of the image, wherever they lie, and the limit that it is scaled down to; of a
        clip one for those of its frames, and their times."""
        if clip := self._clips.get(key):
            parts = [[self.content(frame) for frame in clip.frames], clip.times]
            return "clip:" + hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
        if key not in self._contents:
            source, root = self._sources[key]
            name = key.partition("@")[0]
            if isinstance(source, str):
                encoded = (root / source if root is not None else Path(source)).read_bytes()
                name = hashlib.blake2b(encoded, digest_size=16).hexdigest()
            limit = self._limit(key)
            over = limit is not None and math.prod(self.size(key)) > limit
            self._contents[key] = f"{name}@{limit}" if over else name
        return self._contents[key]

    def placeholder_tokens(self, key: str, among_several: bool = False) -> int:
        """The number of placeholder tokens that the image or clip takes in a prompt."""
        place = ShownImage(key, among_several)
        if place not in self._tokens:
            self._tokens[place] = self._count(self.prepared(*place))
        return self._tokens[place]

    def _count(self, image: ProcessedImages) -> int:
        visual = self._vlm.visual_token_ids
        return sum(token in visual for token in image.placeholders[0])

    def broken(self, keys: Iterable[str] | None = None) -> dict[str, Quarantined]:
        """Decode every image once and return the failures; a clip fails with its first broken frame. A broken image
        must not end a run that is hours old."""

        def failure(key: str, found: tuple[bytes | str, Path | None]) -> Quarantined | None:
            source, root = found
            try:
                picture = load_image(source, root=root)
            except Quarantined as error:
                return error
            limit = self._limit(key)
            if limit is not None and picture.width * picture.height > limit:
                self.scaled.add(key)
            return None

        decoded = {still for place in self._prepared for still in self.stills(place.key)}
        asked = [*self._sources, *self._clips] if keys is None else list(keys)
        stills = dict.fromkeys(still for key in asked for still in self.stills(key))
        wanted = [key for key in stills if key not in decoded]
        result: dict[str, Quarantined] = {}
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(wanted), CHECKED_TOGETHER):
                keys = wanted[start : start + CHECKED_TOGETHER]
                errors = pool.map(
                    failure, keys, [self.source(key) for key in keys]
                )  # read here: a data set has one reader
                result.update((key, error) for key, error in zip(keys, errors, strict=True) if error is not None)
        for key in filter(self.is_clip, asked):
            if first := next((result[frame] for frame in self.stills(key) if frame in result), None):
                result[key] = first
        return result


def scaled_down(picture: Image.Image, pixels: int) -> Image.Image:
    """The picture with at most `pixels` pixels, its shape kept as far as whole pixels allow."""
    factor = math.sqrt(pixels / (picture.width * picture.height))
    width, height = max(1, int(picture.width * factor)), max(1, int(picture.height * factor))
    # A strip may be one pixel wide and still too long.
    return picture.resize((min(width, pixels // height or 1), min(height, pixels)), Image.Resampling.BICUBIC)
