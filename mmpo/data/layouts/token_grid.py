"""The overlap of image tokens with a region, given which part of the picture each token stands for.

A *view* is a grid of tokens over a part of the picture: LLaVA has one, tiled encoders two (all tiles together, and the
whole picture small). Row ends, tile names and class tokens are in no view. Boxes and views are in pixels of the picture
as it was given to the processor; a view may reach beyond the picture (padding) or hold less than all of it (a crop).
`mmpo.models.tree.token_map` knows the views of each family.

Legend: c image tokens of one picture, r x q a view's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpo.data.layouts.geometry import Box, grid_shape


@dataclass(frozen=True)
class GridView:
    """`tokens` [r, q]: which of the picture's image tokens stands at each place of the grid; `box`: what the grid
    covers."""

    tokens: np.ndarray
    box: Box

    def overlap(self, region: Box) -> np.ndarray:
        """[r, q] the share of each token's cell that lies in `region`."""
        rows, columns = self.tokens.shape
        down = _shares(self.box.y0, self.box.y1, rows, region.y0, region.y1)
        across = _shares(self.box.x0, self.box.x1, columns, region.x0, region.x1)
        return down[:, None] * across[None]


@dataclass(frozen=True)
class TokenMap:
    """The views of one picture of `size` (width, height) with `count` image tokens."""

    count: int
    size: tuple[int, int]
    views: tuple[GridView, ...]

    @property
    def real(self) -> np.ndarray:
        """[c] bool: tokens that stand for a part of the picture, padding included."""
        mask = np.zeros(self.count, dtype=bool)
        for view in self.views:
            mask[view.tokens.ravel()] = True
        return mask

    def weights(self, region: Box) -> np.ndarray:
        """[c] the share of each token's cell that lies in `region`, in [0, 1]."""
        found = np.zeros(self.count)
        for view in self.views:
            found[view.tokens.ravel()] = view.overlap(region).ravel()
        return found

    def seen(self, region: Box) -> float:
        """The share of a region's area that at least one view holds (a processor may crop pictures)."""
        best = max(
            max(0.0, min(v.box.x1, region.x1) - max(v.box.x0, region.x0))
            * max(0.0, min(v.box.y1, region.y1) - max(v.box.y0, region.y0))
            for v in self.views
        )
        return best / region.area if region.area else 0.0

    def block(self, n: int, index: int) -> np.ndarray:
        """[c] the block of picture `index` (from 0) of a collage of `n` as MIA-DPO's released code cuts it: equal parts
        of every view's grid, remainders given one each to the first rows and columns."""
        rows, columns = grid_shape(n)
        i, j = divmod(index, columns)
        found = np.zeros(self.count)
        for view in self.views:
            down = np.array_split(np.arange(view.tokens.shape[0]), rows)[i]
            across = np.array_split(np.arange(view.tokens.shape[1]), columns)[j]
            found[view.tokens[np.ix_(down, across)].ravel()] = 1
        return found

    def middle(self) -> np.ndarray:
        """[c] the middle of every view as the released code takes it for the inner picture: 4 of 24 rows and columns
        left out at each side."""
        found = np.zeros(self.count)
        for view in self.views:
            (top, left) = (round(size / 6) for size in view.tokens.shape)
            rows, columns = view.tokens.shape
            found[view.tokens[top : rows - top, left : columns - left].ravel()] = 1
        return found

    def picture(self, values: np.ndarray, shape: tuple[int, int] = (96, 96)) -> np.ndarray:
        """[shape] the token values [c] as a density over the picture, summed over views, for drawing."""
        height, width = shape
        total = np.zeros(shape)
        xs = (np.arange(width) + 0.5) / width * self.size[0]
        ys = (np.arange(height) + 0.5) / height * self.size[1]
        for view in self.views:
            rows, columns = view.tokens.shape
            down = np.floor((ys - view.box.y0) / (view.box.y1 - view.box.y0) * rows).astype(int)
            across = np.floor((xs - view.box.x0) / (view.box.x1 - view.box.x0) * columns).astype(int)
            inside = ((down >= 0) & (down < rows))[:, None] & ((across >= 0) & (across < columns))[None]
            grid = values[view.tokens] * rows * columns
            total += inside * grid[down.clip(0, rows - 1)][:, across.clip(0, columns - 1)]
        return total


def _shares(start: float, end: float, parts: int, low: float, high: float) -> np.ndarray:
    """[parts] the share of each equal part of [start, end] that lies in [low, high]."""
    edges = np.linspace(start, end, parts + 1)
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(inside, 0, None) / ((end - start) / parts)
