"""Composing pictures: grid collages with labels, and one picture inside another.

Everything that does not change from one collage to the next is done once: the white canvas with its labels, and each
picture at the size of a cell, as long as it is among the last ones used. What is left of a collage is copying.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmpo.data.layouts.geometry import Box, canvas_size, cells, fitted, inner_box, label_origins

LABEL_SIZE = 36
KEPT_MIB = 64


@dataclass(frozen=True)
class Composed:
    """A picture made of others, and where each of them is (without padding of its cell), in their order."""

    picture: Image.Image
    regions: tuple[Box, ...]


class Composer:
    """Composes pictures (PIL images in any mode). `kept_mib` bounds the memory for pictures at cell size; several
    threads may use one composer."""

    def __init__(self, kept_mib: int = KEPT_MIB) -> None:
        self._room = kept_mib * 2**20
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def collage(self, pictures: Sequence[Image.Image], keys: Sequence[Hashable] | None = None) -> Composed:
        """A labelled grid of 2, 3, 4, 6 or 9 pictures on white. `keys` name pictures that come again."""
        pixels = _template(len(pictures)).copy()
        regions = []
        for number, cell in enumerate(cells(len(pictures))):
            part = self._cell(pictures[number], None if keys is None else keys[number])
            height, width = part.shape[:2]
            x, y = int(cell.x0), int(cell.y0)
            pixels[y : y + height, x : x + width] = part
            regions.append(Box(x, y, x + width, y + height))
        return Composed(Image.fromarray(pixels), tuple(regions))

    def _cell(self, picture: Image.Image, key: Hashable | None) -> np.ndarray:
        """[h, w, 3] the picture at the size of a cell."""
        if key is not None:
            with self._lock:
                if (found := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    return found
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        part = np.asarray(rgb.resize(fitted(*rgb.size), Image.Resampling.LANCZOS))
        if key is not None:
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = part
                    self._bytes += part.nbytes
                while self._bytes > self._room:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return part


def picture_in_picture(outer: Image.Image, inner: Image.Image) -> Composed:
    """`inner` in the middle of `outer`; regions are (outer, inner), the outer one being the whole picture. Both become
    RGB first: pasting into a grey or palette picture would take the inner one's colours."""
    picture = outer.convert("RGB")
    if picture is outer:
        picture = outer.copy()
    box = inner_box(picture.size, inner.size)
    size = int(box.x1 - box.x0), int(box.y1 - box.y0)
    picture.paste(inner.convert("RGB").resize(size), (int(box.x0), int(box.y0)))
    return Composed(picture, (Box(0, 0, *picture.size), box))


@cache
def _template(n: int) -> np.ndarray:
    """[h, w, 3] the white canvas of a collage with its labels."""
    canvas = Image.new("RGB", canvas_size(n), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for number, origin in enumerate(label_origins(n), start=1):
        draw.text(origin, f"Image{number}", fill=(0, 0, 0), font=label_font())
    return np.asarray(canvas)


@cache
def label_font() -> Any:
    """DejaVu Sans (a free licence, beside it), in place of the paper's Arial: the same pixels on every machine."""
    return ImageFont.truetype(str(Path(__file__).parent / "font" / "DejaVuSans.ttf"), LABEL_SIZE)
