"""The images of a set of pairs: each kept once, decoded and prepared when a batch needs it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmpo.data.images import load_image
from mmpo.errors import Quarantined
from mmpo.models.loading import VLM
from mmpo.models.prompts import ProcessedImages, process_images


class ImageStore:
    """Encoded images by content, and a bounded cache of what the processor makes of them.

    Encoded bytes stay in memory once per distinct image; files are read when needed. Prepared tensors are kept until
    `cache_bytes` are used, then prepared again each time: every epoch visits every image once, so replacing entries
    of a full cache would only lose hits.
    """

    def __init__(self, vlm: VLM, cache_bytes: int) -> None:
        self._vlm = vlm
        self._room = cache_bytes
        self._sources: dict[str, tuple[bytes | str, Path | None]] = {}
        self._prepared: dict[str, ProcessedImages] = {}
        self._contents: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: bytes | str, root: Path | None = None) -> str:
        """Register an image (encoded bytes, or a path below `root`) and return its key. Equal bytes get equal keys."""
        if isinstance(source, bytes):
            key = hashlib.blake2b(source, digest_size=16).hexdigest()
            self._sources.setdefault(key, (source, None))
        else:
            key = f"{root}:{source}"
            self._sources.setdefault(key, (source, root))
        return key

    def prepared(self, key: str) -> ProcessedImages:
        """One image as the processor made it. Raises `Quarantined` if it can't be decoded."""
        if key in self._prepared:
            return self._prepared[key]
        source, root = self._sources[key]
        image = process_images(self._vlm, [load_image(source, root=root)])
        size = sum(tensor.nbytes for tensor in image.tensors.values())
        if size <= self._room:
            self._room -= size
            self._prepared[key] = image
        return image

    def content(self, key: str) -> str:
        """A name for the encoded bytes of the image, wherever they lie."""
        source, root = self._sources[key]
        if isinstance(source, bytes):
            return key
        if key not in self._contents:
            encoded = (root / source if root is not None else Path(source)).read_bytes()
            self._contents[key] = hashlib.blake2b(encoded, digest_size=16).hexdigest()
        return self._contents[key]

    def placeholder_tokens(self, key: str) -> int:
        """How many placeholder tokens the image takes in a prompt."""
        return self.prepared(key).placeholders[0].count(self._vlm.image_token_id)

    def broken(self, keys: Iterable[str] | None = None) -> dict[str, Quarantined]:
        """Decode every image once and return the failures. A broken image must not end a run that is hours old."""

        def failure(key: str) -> Quarantined | None:
            source, root = self._sources[key]
            try:
                load_image(source, root=root)
            except Quarantined as error:
                return error
            return None

        wanted = [key for key in (self._sources if keys is None else keys) if key not in self._prepared]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = zip(wanted, pool.map(failure, wanted), strict=True)
            return {key: error for key, error in found if error is not None}
