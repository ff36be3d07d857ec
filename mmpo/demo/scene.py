"""Scenes: things and their places, drawn from a seed, with exact annotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from mmpo.demo.drawing import SIZE, background, sprite
from mmpo.demo.things import COLORED, COLORS, PARTNER, PLACES, THINGS

SceneKind = Literal["usual", "unusual", "plain", "counted"]
"""`usual` keeps the pairs together most of the time, `unusual` breaks them and mixes places, `plain` draws objects at
random, `counted` has few classes, usual ones or any, of one, two or three items, three the most often as no other kind
has them.
"""

SIDES = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True)
class Item:
    """One object in a scene; `box` is (x, y, width, height) in pixels of the picture."""

    thing: str
    color: str | None
    box: tuple[int, int, int, int]
    mirrored: bool

    @property
    def side(self) -> str:
        return SIDES[min(2, int((self.box[0] + self.box[2] / 2) * 3 / SIZE))]


@dataclass(frozen=True)
class Scene:
    """A place with items, ordered from left to right; `seed` also fixes the background."""

    place: str
    items: tuple[Item, ...]
    seed: tuple[int, ...]

    @property
    def things(self) -> tuple[str, ...]:
        """The distinct classes present, from left to right."""
        return tuple(dict.fromkeys(item.thing for item in self.items))

    def count(self, thing: str) -> int:
        return sum(item.thing == thing for item in self.items)

    @property
    def missing_partners(self) -> tuple[str, ...]:
        """Absent objects whose partner is present: what a careless eye reports."""
        present = set(self.things)
        return tuple(PARTNER[thing] for thing in self.things if PARTNER[thing] not in present)

    def draw(self) -> Image.Image:
        """The RGB picture, `SIZE` x `SIZE` pixels; the same scene always gives the same pixels."""
        image = background(self.place, np.random.default_rng((*self.seed, 1)))
        for item in self.items:
            x, y, width, height = item.box
            picture = sprite(item.thing, item.color, max(width, height), item.mirrored)
            image.paste(picture, (x, y), picture)
        return image


def sample_scene(seed: tuple[int, ...], kind: SceneKind = "usual") -> Scene:
    """The scene number `seed` of its kind: two to five classes, one to six items."""
    rng = np.random.default_rng((*seed, 0))
    place = PLACES[int(rng.integers(len(PLACES)))]
    items: list[Item] = []
    for thing in _choose_things(rng, place.pairs, kind):
        if kind == "counted":
            copies = int(rng.choice(3, p=(0.2, 0.25, 0.55))) + 1
        else:
            copies = 1 + (rng.random() < 0.14) + (rng.random() < 0.05)
        color = str(rng.choice(list(COLORS))) if thing in COLORED else None
        for _ in range(copies):
            item = _place_item(rng, thing, color, items)
            if item is not None and len(items) < 6:
                items.append(item)
    items.sort(key=lambda item: item.box[0] + item.box[2] / 2)
    return Scene(place.name, tuple(items), seed)


def _choose_things(rng: np.random.Generator, pairs: tuple[tuple[str, str], ...], kind: SceneKind) -> list[str]:
    if kind == "plain":
        return [str(thing) for thing in rng.choice(THINGS, size=int(rng.integers(2, 5)), replace=False)]
    if kind == "counted" and rng.random() < 0.5:
        return [str(thing) for thing in rng.choice(THINGS, size=int(rng.integers(1, 4)), replace=False)]
    if kind == "unusual":  # one half of each pair at most, and half of the things from elsewhere
        local = [str(rng.choice(pair)) for pair in pairs]
        foreign = [str(thing) for thing in rng.choice(THINGS, size=3, replace=False)]
        chosen = list(rng.permutation(local)[:2]) + [t for t in foreign if PARTNER[t] not in local and t not in local]
        return [str(thing) for thing in dict.fromkeys(chosen)][:4]
    order = rng.permutation(len(pairs))[: 2 + (rng.random() < 0.35)]
    chosen = []
    for index in order:
        pair = list(rng.permutation(pairs[index]))
        chosen += pair if rng.random() < 0.62 else pair[:1]
    if rng.random() < 0.15 or len(chosen) < 3:
        stranger = str(rng.choice(THINGS))
        if stranger not in chosen and PARTNER[stranger] not in chosen:
            chosen.append(stranger)
    return [str(thing) for thing in rng.permutation(chosen)][: 3 if kind == "counted" else 5]


def _place_item(rng: np.random.Generator, thing: str, color: str | None, others: list[Item]) -> Item | None:
    """A free spot for the object, or None where the picture is full. No spot straddles the border between two sides."""
    mirrored = bool(rng.random() < 0.5)
    for attempt in range(60):
        size = int(rng.integers(15, 24 if attempt < 30 else 18)) * 2
        width, height = sprite(thing, color, size, mirrored).size
        x, y = int(rng.integers(0, SIZE - width + 1)), int(rng.integers(4, SIZE - height + 1))
        center = x + width / 2
        if min(abs(center - SIZE / 3), abs(center - 2 * SIZE / 3)) < 4:
            continue
        if all(_overlap((x, y, width, height), other.box) < 0.08 for other in others):
            return Item(thing, color, (x, y, width, height), mirrored)
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Shared area as a fraction of the smaller box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3])
