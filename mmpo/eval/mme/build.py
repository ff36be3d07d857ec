"""Question pairs in MME's form from any annotated image set: existence, count, position, colour.

MME's own pairs were written by people; these follow their wording and are only asked where the annotation decides the
answer. Each subtask asks at most one pair about an image: first what is so, then what is not.

- existence: an object that is annotated, and one that is not but is elsewhere in the set.
- count: an object whose instances all have a box; its number, and one more or one less.
- position: two objects of one instance each whose boxes do not overlap sideways, and the two exchanged.
- color: an object of which every instance has a `color` attribute; its colour, and one that no instance has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.errors import UserError
from mmpo.eval.mme.metrics import HALLUCINATION, MmeQuestion
from mmpo.text.words import article, is_plural, plural, with_article

Pair = tuple[str, str]
"""The question that is answered by yes, and the one answered by no; without instruction."""

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MOST = len(NUMBERS) - 1
"""Larger groups are not asked about: annotators and models stop counting."""


def build(
    images: Sequence[AnnotatedImage],
    subtasks: Sequence[str] = HALLUCINATION,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, list[MmeQuestion]]:
    """Pairs of each subtask about at most `limit` images, drawn from those whose annotation decides one.

    Raises UserError for a subtask that can't be built, or one that no image gives a pair for.
    """
    known = sorted({name for image in images for name in image.object_names})
    colors = sorted({str(c) for image in images for item in image.objects if (c := item.attributes.get("color"))})
    makers: Mapping[str, Callable[[AnnotatedImage, random.Random], Pair | None]] = {
        "existence": lambda image, rng: existence(image, known, rng),
        "count": count,
        "position": position,
        "color": lambda image, rng: color(image, colors, rng),
    }
    built: dict[str, list[MmeQuestion]] = {}
    for subtask in subtasks:
        if subtask not in makers:
            raise UserError(
                f"MME's {subtask} cannot be built from annotations", hint=f"these can: {', '.join(HALLUCINATION)}"
            )
        order = list(range(len(images)))
        random.Random(f"{seed}:{subtask}").shuffle(order)
        pairs: dict[int, Pair] = {}
        for place in order:
            if limit is not None and len(pairs) == limit:
                break
            pair = makers[subtask](images[place], random.Random(f"{seed}:{subtask}:{images[place].id}"))
            if pair is not None:
                pairs[place] = pair
        if not pairs:
            raise UserError(f"no image's annotation gives a pair for MME's {subtask}", hint=_REMEDIES[subtask])
        built[subtask] = [
            MmeQuestion(subtask, images[place].path, text, "yes" if right else "no")
            for place in sorted(pairs)
            for text, right in zip(pairs[place], (True, False), strict=True)
        ]
    return built


_REMEDIES = {
    "existence": "an image needs an object, and the set one that the image lacks",
    "count": "objects need boxes, all of a kind in an image",
    "position": "objects need boxes; two that are alone of their kind and side by side",
    "color": 'objects need the attribute "color", all of a kind in an image',
}


def existence(image: AnnotatedImage, known: Sequence[str], rng: random.Random) -> Pair | None:
    """Is something in the image that is, and something that is not."""
    present = image.object_names
    absent = [name for name in known if name not in present]
    if not present or not absent:
        return None
    yes, no = (
        f"{_is(name)} there {with_article(name)} in this image?" for name in (rng.choice(present), rng.choice(absent))
    )
    return yes, no


def count(image: AnnotatedImage, rng: random.Random) -> Pair | None:
    """The number of an object's instances, and a number one off."""
    kinds = {
        name: len(items)
        for name, items in _instances(image).items()
        if len(items) <= MOST and all(item.bbox_xywh and not item.attributes.get("crowd") for item in items)
        and not is_plural(name)
    }  # fmt: skip
    if not kinds:
        return None
    most = max(kinds.values())  # a picture with several of a kind says more than one with a single thing
    name = rng.choice([kind for kind, number in kinds.items() if number == most])
    wrong = most + 1 if most == 1 else most + rng.choice((-1, 1))
    yes, no = (_counted(number, name) for number in (most, wrong))
    return yes, no


def position(image: AnnotatedImage, rng: random.Random) -> Pair | None:
    """A pair about which of two objects is on the left (or right) of the other; None where no two fit."""
    single = [items[0] for items in _instances(image).values() if len(items) == 1 and items[0].bbox_xywh]
    pairs = [(a, b) for a in single for b in single if _left_of(a, b)]
    if not pairs:
        return None
    left, right = rng.choice(pairs)
    side = rng.choice(("left", "right"))
    first, second = (left, right) if side == "left" else (right, left)
    yes, no = (
        f"{_is(a.name)} the {a.name} on the {side} side of the {b.name}?" for a, b in ((first, second), (second, first))
    )
    return yes, no


def color(image: AnnotatedImage, colors: Sequence[str], rng: random.Random) -> Pair | None:
    """An object in its colour, and in one that it does not have."""
    asked = []
    for name, items in _instances(image).items():
        own = {str(item.attributes["color"]) for item in items if item.attributes.get("color")}
        others = [one for one in colors if one not in own]
        if others and all(item.attributes.get("color") for item in items):
            asked.append((name, sorted(own), others))
    if not asked:
        return None
    name, right, wrong = rng.choice(asked)
    yes, no = (_colored(shade, name) for shade in (rng.choice(right), rng.choice(wrong)))
    return yes, no


def _instances(image: AnnotatedImage) -> dict[str, list[AnnotatedObject]]:
    kinds: dict[str, list[AnnotatedObject]] = {}
    for item in image.objects:
        kinds.setdefault(item.name, []).append(item)
    return kinds


def _left_of(a: AnnotatedObject, b: AnnotatedObject) -> bool:
    assert a.bbox_xywh is not None and b.bbox_xywh is not None
    return a.bbox_xywh[0] + a.bbox_xywh[2] <= b.bbox_xywh[0]


def _is(name: str) -> str:
    return "Are" if is_plural(name) else "Is"


def _counted(number: int, name: str) -> str:
    if number == 1:
        return f"Is there only one {name} in the image?"
    return f"Are there a total of {NUMBERS[number - 1]} {plural(name)} in the image?"


def _colored(shade: str, name: str) -> str:
    what = f"{shade} {name}"
    return f"Are there {what} in the image?" if is_plural(name) else f"Is there {article(what)} {what} in the image?"
