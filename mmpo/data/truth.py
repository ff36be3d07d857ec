"""Is a claim about a picture true? Its annotations decide it, and where they can't, nothing does.

Objects are decided by names, numbers by counting boxes, colours by `color` attributes, places and relations by where
boxes have their centres. A place is a third of the picture; beyond it a margin is left undecided, since nobody measures
before he writes `on the left`. Where objects carry their place in words (`"side": "on the left"`, as the demo's do),
these decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.text.claims import claimed
from mmpo.text.described import DescribedObject, PictureSide, same_color, side_of
from mmpo.text.scene_claims import Claim, Number
from mmpo.text.vocabulary import ObjectVocabulary

MARGIN = 0.1
"""The distance beyond its third, as a share of the picture, up to which a centre does not make `on the left` wrong."""
APART = 0.05
"""The least distance between the centres of two boxes, as a share of the picture, for one to be left of the other."""

ACROSS: tuple[PictureSide, ...] = ("left", "middle", "right")
_WORDED = re.compile(r"(?:on|in|at)\s+the\s+(left|middle|cent(?:er|re)|right|top|bottom)", re.I)
_OPPOSITE: dict[PictureSide, PictureSide] = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@dataclass(frozen=True)
class Truth:
    """The known facts about one picture. `names` are the classes of the vocabulary that are in it, `objects` the marked
    ones by class: a class that only a caption names has none. `absent` are those known not to be in it, where not every
    other class is: then of the rest nothing is known. None: everything is listed, so what is not in `names` is absent.
    """

    image: AnnotatedImage
    names: frozenset[str]
    objects: Mapping[str, Sequence[AnnotatedObject]] = field(default_factory=dict)
    absent: frozenset[str] | None = None

    def has(self, name: str) -> bool | None:
        """Is a class in the picture? None where that is not known."""
        if name in self.names:
            return True
        return False if self.absent is None or name in self.absent else None

    def marked(self, name: str) -> list[AnnotatedObject] | None:
        """The objects of a class, each by itself; None where their number is not known: in a crowd, or unmarked. A name
        in a list, without a box or a place in words, may stand for several.
        """
        items = list(self.objects.get(name, ()))
        if not items and name in self.names:
            return None
        return None if any(map(_is_several, items)) else items


def _is_several(item: AnnotatedObject) -> bool:
    """May an annotated object be more than one?"""
    return bool(item.attributes.get("crowd")) or (item.bbox_xywh is None and _worded(item) is None)


def truth_of(image: AnnotatedImage, vocabulary: ObjectVocabulary) -> Truth:
    """The classes in the picture: those of its annotated objects, and those that its captions and the phrases about its
    regions name, as in CHAIR.
    """
    objects: dict[str, list[AnnotatedObject]] = {}
    for item in image.objects:
        if name := vocabulary.name_of(item.name):
            objects.setdefault(name, []).append(item)
    told = [*image.captions, *(region.phrase for region in image.regions)]
    said = {mention.name for text in told for mention in claimed(text, vocabulary)}
    return Truth(image, frozenset(said.union(objects)), objects)


def decide(claim: Claim, truth: Truth) -> bool | None:
    """Is the claim true? None if what is known leaves it open; of an object that is not there, only its presence is
    decided.
    """
    if claim.kind == "object":
        return truth.has(claim.name)
    if claim.kind == "count":
        return _count(claim, truth)
    if claim.name not in truth.names:
        return None
    if claim.kind == "color":
        return _color(claim, truth)
    return _place(claim, truth) if claim.kind == "place" else _relation(claim, truth)


def corrected(claim: Claim, truth: Truth) -> str | int | None:
    """The value that would make the claim true: how many its own words should count (0: these objects are not there, or
    were counted before), a colour, a side. None if the annotation does not decide it, or no one word fits all.
    """
    if claim.kind == "object":
        return claim.name if claim.name in truth.names else None
    if claim.kind == "count":
        items = truth.marked(claim.name)
        if items is None:
            return None
        free = len(_pool(claim.about, items, truth)) - _counted(_same_place(claim))
        return max(0, min(free, len(items) - _counted(claim.before)))
    if decide(claim, truth):
        return str(claim.value)
    items = truth.marked(claim.name) or []
    if claim.kind == "color":
        if not claim.about.many:  # then those that decided it do, also where their number is not known
            items = list(truth.objects.get(claim.name, ()))
        said = claim.about.counted.number if claim.about.counted else 1
        for color in dict.fromkeys(_color_of(item) for item in _pool(claim.about, items, truth, colored=False)):
            if color is not None and _fits([_color_of(item) == color for item in items], said, claim.about.many):
                return color
        return None
    if claim.kind == "place":
        meant = items if claim.about.many else _colored(claim.about, items)
        sides = [side_at(item, truth, vertical=claim.value in ("top", "bottom")) for item in meant]
        if claim.about.spread is not None:
            order = sorted((side for side in sides if side is not None), key=ACROSS.index)
            spots = list(dict.fromkeys(order))
            return spots[claim.part] if len(spots) == len(claim.about.places) and None not in sides else None
        if not claim.about.many and None not in sides:
            return sides[0] if sides else None
        return sides[0] if len(set(sides)) == 1 else None
    return _OPPOSITE[claim.value] if _relation(claim, truth) is False else None  # type: ignore[index]


def side_at(item: AnnotatedObject, truth: Truth, *, vertical: bool = False) -> PictureSide | None:
    """The third of the picture that an object is in: as its `side` attribute says, else by its box. None where neither
    is known, and for what is neither at the top nor at the bottom.
    """
    worded = _worded(item)
    if worded is not None and not vertical:
        return worded
    center = _center(item, truth)
    if center is None:
        return None
    third = max(0, min(2, int(center[vertical] * 3)))
    return (("top", None, "bottom") if vertical else ACROSS)[third]


def is_at(item: AnnotatedObject, side: PictureSide, truth: Truth) -> bool | None:
    """Is an object on that side of the picture?"""
    vertical = side in ("top", "bottom")
    worded = _worded(item)
    if worded is not None and not vertical:
        return worded == side
    center = _center(item, truth)
    if center is None:
        return None
    at = center[vertical]
    low, high = {"left": (0, 1), "top": (0, 1), "middle": (1, 2), "right": (2, 3), "bottom": (2, 3)}[side]
    inside = (low == 0 or at >= low / 3) and (high == 3 or at < high / 3)
    if inside:
        return True
    near = low / 3 - MARGIN <= at <= high / 3 + MARGIN
    return None if near else False


def _count(claim: Claim, truth: Truth) -> bool | None:
    items = truth.marked(claim.name)
    assert isinstance(claim.value, Number)
    least, most = claim.value
    if most == 0:
        there = truth.has(claim.name)
        return None if there is None else not there
    if not items:
        return None
    counted, place = claim.about.counted, claim.about.place
    sides = [is_at(item, place.side, truth) for item in items] if place else []
    here = [side for side in sides if side is not False]
    if here and _same_place(claim) and least - _counted(claim.before) + _counted(_same_place(claim)) > len(here):
        return False
    within = bool(here) and most is not None and not claim.before
    sure, possible = (sides.count(True), len(here)) if within else (len(items), len(items))
    if possible < least:
        vague = counted is not None and not counted.exact and not claim.before
        return None if vague and possible > 1 else False
    if most is None or possible <= most:
        return True if sure >= least else None
    return False if sure > most else None


def _same_place(claim: Claim) -> tuple[DescribedObject, ...]:
    """The objects that were counted before at the same place."""
    place = claim.about.place
    return tuple(o for o in claim.before if place is not None and o.place is not None and o.place.side == place.side)


def _counted(groups: Iterable[DescribedObject]) -> int:
    return sum(group.counted.number for group in groups if group.counted is not None)


def _pool(
    about: DescribedObject, items: list[AnnotatedObject], truth: Truth, *, colored: bool = True
) -> list[AnnotatedObject]:
    """Those of a class that may be meant: at the given place, if any are there; of the given colour, if any have it."""
    pool = items
    if about.place is not None:
        pool = [item for item in pool if is_at(item, about.place.side, truth) is not False] or pool
    return _colored(about, pool) if colored else pool


def _colored(about: DescribedObject, items: list[AnnotatedObject]) -> list[AnnotatedObject]:
    if about.color is None or not all(_color_of(item) for item in items):
        return items
    return [item for item in items if _color_of(item) == about.color.value] or items


def _color(claim: Claim, truth: Truth) -> bool | None:
    items = _pool(claim.about, list(truth.objects.get(claim.name, ())), truth, colored=False)
    if not items:
        return None
    colors = [None if (color := _color_of(item)) is None else color == claim.value for item in items]
    return _enough(colors, _needed(claim.about, len(items)))


def _place(claim: Claim, truth: Truth) -> bool | None:
    about = claim.about
    items = truth.marked(claim.name)
    if not items:
        return None
    here = [is_at(item, claim.value, truth) for item in items]  # type: ignore[arg-type]
    number = about.places[claim.part].number
    if number is None:
        return _enough(here, _needed(about, len(items)))
    if sum(place.number or 0 for place in about.places) != len(items):
        return _enough(here, min(number, len(items)))
    if here.count(True) > number:
        return False
    right = _enough(here, number)
    return None if right and None in here else right


def _needed(about: DescribedObject, there: int) -> int:
    """Of how many objects something must be true: of as many as are counted, of all where a plural counts nothing."""
    if about.counted is not None:
        return min(about.counted.number, there)
    return there if about.many else 1


def _enough(each: Sequence[bool | None], needed: int) -> bool | None:
    sure = sum(one is True for one in each)
    if sure >= needed:
        return True
    return None if sum(one is not False for one in each) >= needed else False


def _fits(each: Sequence[bool], said: int, many: bool) -> bool:
    return sum(each) >= (min(said, len(each)) if many else 1)


def _relation(claim: Claim, truth: Truth) -> bool | None:
    if claim.other is None:
        return None
    ones, others = truth.marked(claim.name), truth.marked(claim.other.name)
    if not ones or not others:
        return None
    vertical = claim.value in ("top", "bottom")
    sign = 1 if claim.value in ("right", "bottom") else -1
    centers = [[_center(item, truth) for item in items] for items in (ones, others)]
    ahead = [
        None if one is None or other is None else sign * (one[vertical] - other[vertical])
        for one in centers[0]
        for other in centers[1]
    ]
    return _beyond(ahead)


def _beyond(ahead: Iterable[float | None]) -> bool | None:
    """True if any of the distances is clearly ahead, False if all are clearly behind."""
    known = list(ahead)
    if any(distance is not None and distance > APART for distance in known):
        return True
    return False if all(distance is not None and distance < -APART for distance in known) else None


def _color_of(item: AnnotatedObject) -> str | None:
    color = item.attributes.get("color")
    return same_color(color) if isinstance(color, str) else None


def _worded(item: AnnotatedObject) -> PictureSide | None:
    words = item.attributes.get("side")
    match = _WORDED.fullmatch(words.strip()) if isinstance(words, str) else None
    return side_of(match[1]) if match else None


def _center(item: AnnotatedObject, truth: Truth) -> tuple[float, float] | None:
    """The centre of an object's box, as shares of the picture's width and height; None if box or size is unknown."""
    width, height = truth.image.width, truth.image.height
    if item.bbox_xywh is None or width is None or height is None:
        return None
    x, y, wide, high = item.bbox_xywh
    return (x + wide / 2) / width, (y + high / 2) / height
