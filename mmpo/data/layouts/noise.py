"""Gaussian noise on a picture or a part of it, for making a model answer badly (MIA-DPO)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mmpo.data.layouts.geometry import Box

CELL_SIGMA = 225.0
WHOLE_SIGMA = 49.0
"""Standard deviations on the scale 0 to 255: on the target cell of a collage, on a whole picture in a picture."""


def add_noise(
    picture: Image.Image, sigma: float, rng: np.random.Generator, box: Box | None = None, *, wrap: bool = False
) -> Image.Image:
    """`picture` (RGB) with noise of standard deviation `sigma` on `box`, or everywhere.

    Added in floating point and clipped to 0..255. `wrap`: as the released code does it for picture-in-picture, where
    noise becomes bytes first and sums wrap around, so that dark pixels turn bright."""
    pixels = np.array(picture.convert("RGB"))
    x0, y0, x1, y1 = (int(edge) for edge in (box or Box(0, 0, *picture.size)))
    part = pixels[y0:y1, x0:x1]
    noise = rng.normal(0.0, sigma, part.shape)
    if wrap:
        part += noise.astype(np.int64).astype(np.uint8)
    else:
        part[:] = np.clip(part + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)
