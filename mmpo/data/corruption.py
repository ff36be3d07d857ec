"""Images made uninformative: what an answer should no longer be drawn from.

One registry serves every method that contrasts an image with a damaged copy. A corruption is a pure function of the
image and a generator, so that a pair and an epoch always give the same picture, to policy and reference alike. Some
act on the picture, others on the tensor that the processor made of it, as their authors do.

Sources: mDPO (arXiv 2406.11839) for `crop`; V-DPO (2411.02712) for `black`; OPA-DPO (2501.09695) for `pixel_mask`;
POVID (2402.11411), SeVa (2404.10501), CHiP (2501.16629) and TARS (2507.21584) for `diffusion`; CHiP for `rotate` and
`small_crop`; Re-Align (2502.13146) for `nearest`; `patches` hide more and more of an image, for LPOI (2505.21061).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmpo.errors import UserError

DIFFUSION_STEPS = 1000


@cache
def noise_schedule() -> np.ndarray:
    """Cumulative products alpha_bar_t [1000] of the forward diffusion that POVID, SeVa, CHiP and TARS share:
    beta_t = sigmoid(-6 … 6) (0.005 - 1e-5) + 1e-5. alpha_bar_500 = 0.7448."""
    beta = 1 / (1 + np.exp(-np.linspace(-6, 6, DIFFUSION_STEPS))) * (0.005 - 1e-5) + 1e-5
    return np.asarray(np.cumprod(1 - beta))


def crop(image: Image.Image, rng: np.random.Generator, *, least: float = 0.01, most: float = 0.2) -> Image.Image:
    """A random part of `least` to `most` of the area, sides in a ratio of 3:4 to 4:3, blown up to the whole size."""
    width, height = image.size
    area = rng.uniform(least, most) * width * height
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))


def small_crop(
    image: Image.Image, rng: np.random.Generator, *, most_width: int = 320, most_height: int = 240
) -> Image.Image:
    """A random part of at most `most_width` x `most_height` pixels and half of each side, blown up to full size."""
    width, height = image.size
    w, h = (max(1, min(side // 2, most)) for side, most in ((width, most_width), (height, most_height)))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))


def rotate(image: Image.Image, rng: np.random.Generator, *, least: float = 10.0, most: float = 80.0) -> Image.Image:
    """Turned by `least` to `most` degrees, corners black."""
    return image.rotate(rng.uniform(least, most), Image.Resampling.BILINEAR)


def pixel_mask(image: Image.Image, rng: np.random.Generator, *, share: float = 0.3) -> Image.Image:
    """A random `share` of the pixels replaced by the picture's mean colour."""
    pixels = np.array(image)
    pixels[rng.random(pixels.shape[:2]) < share] = pixels.reshape(-1, pixels.shape[-1]).mean(0).round()
    return Image.fromarray(pixels)


def patches(image: Image.Image, rng: np.random.Generator, *, share: float = 0.5, grid: int = 8) -> Image.Image:
    """A random `share` of the `grid` x `grid` patches in the picture's mean colour, at least one. The patches of a
    larger share include those of a smaller one drawn by an equal generator."""
    if not 0 < share <= 1 or grid < 1 or grid != int(grid):
        raise UserError(f"patches: a share above 0 and up to 1 of a whole grid, not {share} of {grid}")
    pixels = np.array(image)
    colour = pixels.reshape(-1, pixels.shape[-1]).mean(0).round()
    rows, columns = (np.linspace(0, side, grid + 1).round().astype(int) for side in pixels.shape[:2])
    for patch in rng.permutation(grid * grid)[: max(1, round(share * grid * grid))]:
        y, x = divmod(int(patch), grid)
        pixels[rows[y] : rows[y + 1], columns[x] : columns[x + 1]] = colour
    return Image.fromarray(pixels)


def diffusion_pixels(image: Image.Image, rng: np.random.Generator, *, step: int = 500) -> Image.Image:
    """Forward diffusion on pixels in [0, 1], clipped: POVID's second stage."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    return Image.fromarray((_diffuse(pixels, rng, step).clip(0, 1) * 255).round().astype(np.uint8))


def diffusion(pixels: np.ndarray, rng: np.random.Generator, *, step: int = 500) -> np.ndarray:
    """Forward diffusion on the processor's normalized pixels: sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise."""
    return _diffuse(pixels, rng, step)


def black(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zeros after normalization: the mean colour everywhere."""
    return np.zeros_like(pixels)


def _diffuse(pixels: np.ndarray, rng: np.random.Generator, step: int) -> np.ndarray:
    if not 0 <= step < DIFFUSION_STEPS:
        raise UserError(f"the diffusion step is 0 to {DIFFUSION_STEPS - 1}, not {step}")
    keep = noise_schedule()[step]
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    return (math.sqrt(keep) * pixels + math.sqrt(1 - keep) * noise).astype(pixels.dtype)


ON_PICTURES: dict[str, Callable[..., Image.Image]] = {
    "crop": crop,
    "small_crop": small_crop,
    "rotate": rotate,
    "pixel_mask": pixel_mask,
    "patches": patches,
    "diffusion_pixels": diffusion_pixels,
}
ON_TENSORS: dict[str, Callable[..., np.ndarray]] = {"diffusion": diffusion, "black": black}
OTHER, NEAREST = "other", "nearest"
"""Not a damaged copy but the image of another pair: any, or the most similar one."""

CorruptionKind = Literal[
    "crop",
    "small_crop",
    "rotate",
    "pixel_mask",
    "patches",
    "diffusion_pixels",
    "diffusion",
    "black",
    "other",
    "nearest",
]


@dataclass(frozen=True)
class Corruption:
    """One corruption with its parameters. Raises `UserError` for a parameter it does not have."""

    kind: CorruptionKind
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        function = (ON_PICTURES | ON_TENSORS).get(self.kind)
        if function is None and self.kind not in (OTHER, NEAREST):
            known = ", ".join([*ON_PICTURES, *ON_TENSORS, OTHER, NEAREST])
            raise UserError(f"no corruption is called {self.kind!r}", hint=f"one of {known}")
        known_parameters = () if function is None else tuple(function.__kwdefaults__ or ())
        for name in self.parameters:
            if name not in known_parameters:
                hint = f"it has {', '.join(known_parameters)}" if known_parameters else "it has none"
                raise UserError(f"corruption {self.kind} has no parameter {name!r}", hint=hint)

    def picture(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The picture (RGB) as the processor gets it; unchanged where the corruption acts on tensors."""
        function = ON_PICTURES.get(self.kind)
        return image if function is None else function(image, rng, **self.parameters)

    def tensor(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The processor's pixels as the model gets them; unchanged where the corruption acts on pictures."""
        function = ON_TENSORS.get(self.kind)
        return pixels if function is None else function(pixels, rng, **self.parameters)


def generator(seed: int, name: str, epoch: int) -> np.random.Generator:
    """The generator of one pair in one epoch, whatever the order and the process."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
