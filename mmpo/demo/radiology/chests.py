"""Synthetic chests: what is in one, drawn from a seed, and its picture. Every picture says that it is synthetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mmpo.demo.drawing import SIZE

KINDS = ("effusion", "opacity", "cardiomegaly", "edema", "pneumothorax", "pacemaker", "endotracheal tube", "nodule")
SIDES = ("left", "right")
DEGREES = ("small", "moderate", "large")
ZONES = ("upper", "lower")

# A film is seen from the front: the patient's right is on the left of the picture.
_LUNG_X = {"right": 42, "left": 86}
_TOP, _BOTTOM, _HALF = 20, 100, 19


@dataclass(frozen=True)
class ChestFinding:
    """One thing in a chest; `side`, `degree` and `zone` where its kind has them. `box` is (x, y, width, height)."""

    kind: str
    side: str | None = None
    degree: str | None = None
    zone: str | None = None
    box: tuple[int, int, int, int] = (0, 0, SIZE, SIZE)


@dataclass(frozen=True)
class Chest:
    """The findings of one film; `seed` also fixes its anatomy."""

    findings: tuple[ChestFinding, ...]
    seed: tuple[int, ...]

    def of(self, kind: str) -> tuple[ChestFinding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def draw(self) -> Image.Image:
        """The film, RGB, `SIZE` x `SIZE`; the same chest always gives the same pixels."""
        rng = np.random.default_rng((*self.seed, 1))
        film = Image.new("L", (SIZE, SIZE), 28)
        draw = ImageDraw.Draw(film)
        dx, dy = (int(v) for v in rng.integers(-2, 3, size=2))
        draw.rounded_rectangle((14 + dx, 8 + dy, 114 + dx, 140), radius=30, fill=118)
        for side in SIDES:
            x = _LUNG_X[side] + dx
            draw.ellipse((x - _HALF, _TOP + dy, x + _HALF, _BOTTOM + 12 + dy), fill=48)
            draw.rectangle((x - _HALF - 2, _BOTTOM + dy, x + _HALF + 2, SIZE), fill=126)
        large = bool(self.of("cardiomegaly"))
        width = 31 if large else 18
        draw.rectangle((60 + dx, 0, 68 + dx, SIZE), fill=158)
        draw.ellipse((66 - width + dx, 62 + dy, 74 + width + dx, 106 + dy), fill=162)
        film = film.filter(ImageFilter.GaussianBlur(1.2))
        for finding in self.findings:
            film = _PAINT[finding.kind](film, finding, dx, dy)
        draw = ImageDraw.Draw(film)
        for y in range(_TOP + 6 + dy, _BOTTOM + dy, 11):  # ribs
            draw.arc((18 + dx, y, 62 + dx, y + 18), 200, 330, fill=92)
            draw.arc((66 + dx, y, 110 + dx, y + 18), 210, 340, fill=92)
        noise = rng.normal(0, 5, (SIZE, SIZE))
        film = Image.fromarray(np.clip(np.asarray(film, dtype=float) + noise, 0, 255).astype(np.uint8), "L")
        ImageDraw.Draw(film).text((1, SIZE - 11), "SYNTHETIC", fill=220, font=ImageFont.load_default(9))
        return film.convert("RGB")


def _blend(film: Image.Image, shape: Image.Image, blur: float) -> Image.Image:
    """The lighter of film and (blurred) shape, pixel by pixel."""
    light = np.asarray(shape.filter(ImageFilter.GaussianBlur(blur)) if blur else shape)
    return Image.fromarray(np.maximum(np.asarray(film), light), "L")


def _layer() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    layer = Image.new("L", (SIZE, SIZE), 0)
    return layer, ImageDraw.Draw(layer)


def _box(finding: ChestFinding, dx: int, dy: int) -> tuple[int, int, int, int]:
    x, y, width, height = finding.box
    return x + dx, y + dy, x + width + dx, y + height + dy


def _effusion(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    layer, draw = _layer()
    x0, y0, x1, y1 = _box(finding, dx, dy)
    outer, inner = (x0, x1) if finding.side == "right" else (x1, x0)
    draw.polygon(((outer, y0), (inner, y0 + (y1 - y0) // 3), (inner, y1), (outer, y1)), fill=178)
    return _blend(film, layer, 1.0)


def _opacity(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    layer, draw = _layer()
    draw.ellipse(_box(finding, dx, dy), fill=190)
    return _blend(film, layer, 4.0)


def _edema(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    layer, draw = _layer()
    for side in SIDES:
        x = _LUNG_X[side] + dx
        draw.ellipse((x - 16, 42 + dy, x + 16, 82 + dy), fill=128)
        for y in range(46, 80, 6):
            draw.line((x - 15, y + dy, x + 15, y + 3 + dy), fill=190)
    return _blend(film, layer, 1.0)


def _pneumothorax(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    x0, y0, x1, y1 = _box(finding, dx, dy)
    film = film.copy()
    draw = ImageDraw.Draw(film)
    draw.pieslice((x0, y0, x1, y1 + (y1 - y0)), 180, 360, fill=6)
    draw.line((x0, y1, x1, y1), fill=200)
    return film


def _pacemaker(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    film = film.copy()
    draw = ImageDraw.Draw(film)
    x0, y0, x1, y1 = _box(finding, dx, dy)
    draw.rounded_rectangle((x0, y0, x1, y1), radius=4, fill=250)
    draw.line(((x0, y1), (72 + dx, 48 + dy), (74 + dx, 92 + dy)), fill=245, width=2)
    return film


def _tube(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    film = film.copy()
    draw = ImageDraw.Draw(film)
    draw.line(((62 + dx, 0), (62 + dx, 40 + dy)), fill=250, width=2)
    draw.line(((67 + dx, 0), (67 + dx, 40 + dy)), fill=250, width=2)
    return film


def _nodule(film: Image.Image, finding: ChestFinding, dx: int, dy: int) -> Image.Image:
    layer, draw = _layer()
    draw.ellipse(_box(finding, dx, dy), fill=240)
    return _blend(film, layer, 0.6)


_PAINT = {
    "effusion": _effusion,
    "opacity": _opacity,
    "cardiomegaly": lambda film, finding, dx, dy: film,
    "edema": _edema,
    "pneumothorax": _pneumothorax,
    "pacemaker": _pacemaker,
    "endotracheal tube": _tube,
    "nodule": _nodule,
}

_CHANCE = {
    "effusion": 0.45, "opacity": 0.35, "cardiomegaly": 0.35, "edema": 0.2, "pneumothorax": 0.15, "pacemaker": 0.2,
    "endotracheal tube": 0.25, "nodule": 0.2,
}  # fmt: skip
_HEIGHTS = {"small": 16, "moderate": 30, "large": 46}


def sample_chest(seed: tuple[int, ...]) -> Chest:
    """The chest of a seed: none to all of the kinds, each by its own chance."""
    rng = np.random.default_rng((*seed, 0))
    findings = []
    for kind in KINDS:
        if rng.random() >= _CHANCE[kind]:
            continue
        side = str(rng.choice(SIDES)) if kind in ("effusion", "opacity", "pneumothorax", "nodule") else None
        degree = str(rng.choice(DEGREES)) if kind == "effusion" else None
        zone = str(rng.choice(ZONES)) if kind in ("opacity", "nodule") else None
        findings.append(ChestFinding(kind, side, degree, zone, _place(kind, side, degree, zone, rng)))
    return Chest(tuple(findings), seed)


def _place(
    kind: str, side: str | None, degree: str | None, zone: str | None, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) of a finding in pixels, before the film's own shift."""
    x = _LUNG_X.get(side or "", 64)
    if kind == "effusion":
        height = _HEIGHTS[degree or "small"]
        return x - _HALF, _BOTTOM - height, 2 * _HALF, height + 6
    if kind in ("opacity", "nodule"):
        size = 22 if kind == "opacity" else 9
        y = (34 if zone == "upper" else 68) + int(rng.integers(-4, 5))
        return x - size // 2 + int(rng.integers(-5, 6)), y, size, size
    if kind == "pneumothorax":
        return x - _HALF + 3, _TOP + 1, 2 * _HALF - 6, 14
    if kind == "pacemaker":
        return 96, 22, 16, 13
    if kind == "endotracheal tube":
        return 60, 0, 10, 42
    return (34, 62, 70, 44) if kind == "cardiomegaly" else (24, 42, 82, 42)
