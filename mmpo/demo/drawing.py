"""Drawing: sprites from the artwork (scaled, mirrored, re-coloured) and the backgrounds of the eight places."""

from __future__ import annotations

import colorsys
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmpo.demo.things import COLORED, COLORS

SIZE = 128
"""Width and height of every picture, in pixels."""

_ART = Path(__file__).parent / "art"


@cache
def _artwork(thing: str) -> Image.Image:
    image = Image.open(_ART / f"{thing.replace(' ', '_')}.png").convert("RGBA")
    return image.crop(image.getbbox())


@cache
def _recolored(thing: str, color: str) -> Image.Image:
    """The artwork with the pixels of its main hue turned to `color`; wheels, leaves and pages keep theirs."""
    image = _artwork(thing)
    alpha = image.getchannel("A")
    hsv = np.array(image.convert("RGB").convert("HSV"), dtype=np.int16)
    distance = np.abs(hsv[..., 0] - COLORED[thing] * 255)
    main = (np.minimum(distance, 255 - distance) < 28) & (hsv[..., 1] > 60)
    hsv[..., 0] = np.where(main, int(COLORS[color] * 255), hsv[..., 0])
    if color == "yellow":  # a dark yellow reads as brown
        hsv[..., 2] = np.where(main, np.clip(hsv[..., 2] * 1.15 + 10, 0, 255), hsv[..., 2])
    result = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGBA")
    result.putalpha(alpha)
    return result


@lru_cache(maxsize=8192)
def sprite(thing: str, color: str | None, size: int, mirrored: bool) -> Image.Image:
    """`thing` as an RGBA picture whose longer side is `size` pixels. `color` only for the things in `COLORED`."""
    image = _artwork(thing) if color is None else _recolored(thing, color)
    scale = size / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


# What a place looks like: the colours of its upper and lower part, and where they meet (fraction of the height).
_GROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {
    "kitchen": ((236, 226, 205), (176, 150, 120), 0.62),
    "street": ((190, 212, 230), (120, 122, 128), 0.48),
    "farm": ((186, 222, 244), (150, 190, 96), 0.40),
    "beach": ((150, 208, 240), (240, 222, 170), 0.52),
    "living room": ((214, 196, 214), (150, 112, 92), 0.66),
    "office": ((222, 230, 236), (150, 160, 172), 0.58),
    "park": ((204, 232, 250), (128, 206, 120), 0.46),
    "forest": ((116, 150, 118), (92, 104, 62), 0.55),
}


def background(place: str, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of the empty place, different for every draw of `rng`, with a few unannotated distractors."""
    top, bottom, horizon = _GROUNDS[place]
    jitter = rng.integers(-16, 17, size=3)
    upper, lower = (tuple(int(v) for v in np.clip(np.array(c) + jitter, 0, 255)) for c in (top, bottom))
    edge = int(SIZE * horizon + rng.integers(-8, 9))
    image = Image.new("RGB", (SIZE, SIZE), upper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, edge, SIZE, SIZE), fill=lower)
    dark = tuple(int(v * 0.86) for v in lower)
    light = tuple(min(255, int(v * 1.07) + 4) for v in upper)
    _MOTIFS[place](draw, rng, edge, light, dark)
    for _ in range(int(rng.integers(0, 4))):
        _distractor(draw, rng)
    return image


_Color = tuple[int, ...]


def _tiles(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    step = int(rng.integers(14, 24))
    for x in range(int(rng.integers(0, step)), SIZE, step):
        draw.line((x, 0, x, edge), fill=light)
    for y in range(int(rng.integers(0, step)), edge, step):
        draw.line((0, y, SIZE, y), fill=light)
    draw.rectangle((0, edge, SIZE, edge + 3), fill=dark)


def _road(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    x = -int(rng.integers(0, 20))
    while x < SIZE:  # a skyline
        width, height = int(rng.integers(14, 34)), int(rng.integers(10, 40))
        draw.rectangle((x, edge - height, x + width, edge), fill=light if rng.random() < 0.5 else dark)
        x += width + int(rng.integers(0, 8))
    y = int((edge + SIZE) / 2 + rng.integers(-6, 7))
    for x in range(int(rng.integers(-16, 0)), SIZE, 24):
        draw.rectangle((x, y, x + 12, y + 2), fill=(232, 232, 220))


def _fields(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    for y in range(edge + 6, SIZE, int(rng.integers(9, 15))):
        draw.line((0, y, SIZE, y + int(rng.integers(-5, 6))), fill=dark, width=2)
    fence = edge - 2
    for x in range(int(rng.integers(0, 12)), SIZE, 14):
        draw.rectangle((x, fence - 8, x + 2, fence + 2), fill=(150, 118, 84))
    draw.line((0, fence - 4, SIZE, fence - 4), fill=(150, 118, 84), width=2)


def _waves(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    sea = edge - int(rng.integers(14, 26))
    draw.rectangle((0, sea, SIZE, edge), fill=(70, 150, 200))
    for y in range(sea + 4, edge, 6):
        for x in range(int(rng.integers(0, 14)), SIZE, 22):
            draw.arc((x, y - 3, x + 12, y + 3), 180, 360, fill=(214, 236, 246))


def _wallpaper(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    step = int(rng.integers(10, 20))
    for x in range(int(rng.integers(0, step)), SIZE, step):
        draw.rectangle((x, 0, x + step // 3, edge), fill=light)
    for y in range(edge, SIZE, 10):
        draw.line((0, y, SIZE, y), fill=dark)


def _panels(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    left = int(rng.integers(6, 70))
    draw.rectangle((left, 8, left + 46, edge - 12), fill=(196, 222, 240), outline=dark)
    draw.line((left + 23, 8, left + 23, edge - 12), fill=dark)
    draw.rectangle((0, edge, SIZE, edge + 4), fill=dark)


def _path(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    for _ in range(3):  # clouds
        x, y = int(rng.integers(0, SIZE)), int(rng.integers(2, 26))
        draw.ellipse((x, y, x + 28, y + 10), fill=(250, 252, 255))
    top, bottom = int(rng.integers(30, 98)), int(rng.integers(10, 90))
    draw.polygon(((top, edge), (top + 8, edge), (bottom + 34, SIZE), (bottom, SIZE)), fill=(222, 206, 168))


def _trunks(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, light: _Color, dark: _Color) -> None:
    for _ in range(int(rng.integers(5, 9))):
        x, width = int(rng.integers(-4, SIZE)), int(rng.integers(4, 9))
        draw.rectangle((x, 0, x + width, edge + int(rng.integers(-4, 10))), fill=(84, 76, 58))
    for _ in range(16):
        x, y = int(rng.integers(0, SIZE)), int(rng.integers(edge, SIZE))
        draw.line((x, y, x + 3, y - 4), fill=dark)


_MOTIFS = {
    "kitchen": _tiles,
    "street": _road,
    "farm": _fields,
    "beach": _waves,
    "living room": _wallpaper,
    "office": _panels,
    "park": _path,
    "forest": _trunks,
}


def _distractor(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A plain coloured shape that means nothing."""
    x, y, size = (int(v) for v in rng.integers((0, 0, 6), (SIZE, SIZE, 14)))
    r, g, b = colorsys.hsv_to_rgb(rng.random(), 0.5, 0.8)
    fill = (int(r * 255), int(g * 255), int(b * 255))
    box = (x, y, x + size, y + size)
    kind = int(rng.integers(3))
    if kind == 0:
        draw.ellipse(box, fill=fill)
    elif kind == 1:
        draw.rectangle(box, fill=fill)
    else:
        draw.polygon(((x, y + size), (x + size // 2, y), (x + size, y + size)), fill=fill)
