"""The pictures of one file: each distinct one once, as a thumbnail, within a budget."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

from mmpo.errors import Quarantined
from mmpo.files.images import load_image, read_image
from mmpo.report.cards import ShownPicture

SIDE = 320
"""Pixels of a thumbnail's longer side."""
BUDGET = 25_000_000
"""Bytes of a report, pictures and texts; the texts get what is left of it."""
FOR_TEXTS = 5_000_000


class Album:
    """Takes pictures in, and says how each is shown. `thumbnails` are (id, data address, width, height)."""

    def __init__(self, budget: int = BUDGET - FOR_TEXTS) -> None:
        self.budget, self.used = budget, 0
        self.left_out = 0
        self._known: dict[str, ShownPicture] = {}
        self.thumbnails: list[tuple[str, str, int, int]] = []

    def show(self, source: bytes | str, alt: str, root: Path | None = None) -> ShownPicture:
        """A picture (encoded bytes, or a path below `root`) for a card; one that can't be read says why."""
        try:
            data = read_image(source, root=root if isinstance(source, str) else None)
        except (Quarantined, OSError) as error:
            return ShownPicture("", 4, 3, alt, missing=str(error))
        key = hashlib.sha256(data).hexdigest()[:16]
        if key not in self._known:
            self._known[key] = self._taken(key, data)
        known = self._known[key]
        return ShownPicture(known.href, known.width, known.height, alt, missing=known.missing)

    def _taken(self, key: str, data: bytes) -> ShownPicture:
        if self.used >= self.budget:
            self.left_out += 1
            return ShownPicture("", 4, 3, "", missing="left out: the pictures' budget is used")
        try:
            picture = load_image(data)
        except Quarantined as error:
            return ShownPicture("", 4, 3, "", missing=str(error))
        width, height = picture.size
        picture.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=80)
        address = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
        self.used += len(address)
        self.thumbnails.append((f"p-{key}", address, width, height))
        return ShownPicture(f"#p-{key}", width, height, "")
