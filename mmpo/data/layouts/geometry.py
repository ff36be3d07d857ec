"""Positions and sizes in a composed picture, in pixels.

Numbers of the released code of MIA-DPO (arXiv:2410.17637): cells of 448 with 40 between them, a strip of 40 above each
row for its labels, pictures at the top left of their cell; 0.7 of the outer picture for an inner one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mmpo.errors import UserError

Layout = Literal["sequence", "collage", "pic_in_pic"]
LAYOUTS: tuple[Layout, ...] = ("sequence", "collage", "pic_in_pic")

CELL = 448
MARGIN = 40
INNER_SHARE = (7, 10)
LABEL_INDENT = 20

GRIDS: dict[int, tuple[int, int]] = {2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns by the number of pictures."""


class Box(NamedTuple):
    """Pixels [x0, x1) x [y0, y1) of a picture."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        return max(0.0, self.x1 - self.x0) * max(0.0, self.y1 - self.y0)


def grid_shape(n: int) -> tuple[int, int]:
    """(rows, columns) of a collage of `n`. Raises UserError for a number without a grid."""
    if n not in GRIDS:
        raise UserError(f"a collage of {n} pictures has no grid", hint=f"one of {', '.join(map(str, GRIDS))}")
    return GRIDS[n]


def canvas_size(n: int) -> tuple[int, int]:
    """(width, height) of a collage of `n`."""
    rows, columns = grid_shape(n)
    return columns * CELL + (columns - 1) * MARGIN, rows * (CELL + MARGIN)


def cells(n: int) -> list[Box]:
    """The square cells of a collage in reading order, without the label strips."""
    rows, columns = grid_shape(n)
    step = CELL + MARGIN
    return [
        Box(j * step, i * step + MARGIN, j * step + CELL, i * step + MARGIN + CELL)
        for i in range(rows)
        for j in range(columns)
    ]


def label_origins(n: int) -> list[tuple[int, int]]:
    """The (x, y) at which the label of each cell starts: indented, at the top of the strip above it."""
    return [(int(cell.x0) + LABEL_INDENT, int(cell.y0) - MARGIN) for cell in cells(n)]


def fitted(width: int, height: int, side: int = CELL) -> tuple[int, int]:
    """The size at which a picture fills a square: its longer side becomes `side`, the other is rounded down (but never
    to nothing)."""
    if width >= height:
        return side, max(1, height * side // width)
    return max(1, width * side // height), side


def inner_box(outer: tuple[int, int], inner: tuple[int, int]) -> Box:
    """The place of a picture of size `inner` inside one of size `outer` (each width, height): centred, as large as
    0.7 of either side allows. Small ones are enlarged."""
    up, down = INNER_SHARE
    (outer_width, outer_height), (width, height) = outer, inner
    if height * outer_width <= outer_height * width:  # 0.7 W / a <= 0.7 H
        w = up * outer_width // down
        h = w * height // width
    else:
        h = up * outer_height // down
        w = h * width // height
    w, h = max(1, w), max(1, h)
    x, y = (outer_width - w) // 2, (outer_height - h) // 2
    return Box(x, y, x + w, y + h)


def official_cell(size: tuple[int, int], n: int, index: int) -> Box:
    """The part of a collage that the released code takes for picture `index` (from 0): an equal integer split of the
    saved file, label strips included, remainders left out."""
    rows, columns = grid_shape(n)
    width, height = size[0] // columns, size[1] // rows
    i, j = divmod(index, columns)
    return Box(j * width, i * height, (j + 1) * width, (i + 1) * height)
