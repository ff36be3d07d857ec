"""The objects of the demo world: 48 kinds in 8 places, and which of them usually appear together.

Every place has three *pairs* of objects. The halves of a pair are seen together most of the time, so they are to this
world what knives and forks are to photographs: a model that sees one is tempted to report the other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A context: its name and the pairs of objects that live there."""

    name: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def things(self) -> tuple[str, ...]:
        return tuple(thing for pair in self.pairs for thing in pair)


PLACES: tuple[Place, ...] = (
    Place("kitchen", (("pan", "knife"), ("cup", "teapot"), ("apple", "banana"))),
    Place("street", (("car", "traffic light"), ("bus", "bicycle"), ("truck", "motorcycle"))),
    Place("farm", (("cow", "tractor"), ("pig", "rooster"), ("sheep", "horse"))),
    Place("beach", (("palm tree", "boat"), ("umbrella", "bucket"), ("crab", "shell"))),
    Place("living room", (("couch", "television"), ("clock", "candle"), ("teddy bear", "guitar"))),
    Place("office", (("laptop", "keyboard"), ("printer", "book"), ("pencil", "briefcase"))),
    Place("park", (("dog", "ball"), ("kite", "bird"), ("flower", "fountain"))),
    Place("forest", (("bear", "pine tree"), ("fox", "owl"), ("deer", "mushroom"))),
)

THINGS: tuple[str, ...] = tuple(thing for place in PLACES for thing in place.things)
"""Every object class, in a fixed order."""

PARTNER: dict[str, str] = {a: b for place in PLACES for pair in place.pairs for a, b in (pair, pair[::-1])}
"""The other half of an object's pair."""

HOME: dict[str, Place] = {thing: place for place in PLACES for thing in place.things}
"""The place where an object usually is."""

COLORS: dict[str, float] = {"red": 0.0, "yellow": 0.14, "green": 0.34, "blue": 0.60, "purple": 0.78}
"""Colour names and their hues in [0, 1)."""

COLORED: dict[str, float] = {
    "car": 0.0,
    "teapot": 0.0,
    "bucket": 0.57,
    "couch": 0.57,
    "book": 0.0,
    "guitar": 0.0,
    "flower": 0.92,
}
"""The objects that come in every colour, with the hue their artwork is drawn in."""

DOUBLED: tuple[str, ...] = ("cow", "bird", "cup")
"""The things of which a careless annotator counts one as two."""

CENTERED: tuple[str, ...] = ("car", "couch", "laptop")
"""The things that a careless annotator puts in the middle, wherever they are."""

SYNONYMS: dict[str, list[str]] = {
    "pan": ["frying pan", "skillet"],
    "cup": ["mug", "coffee cup"],
    "car": ["automobile"],
    "traffic light": ["traffic signal", "stoplight"],
    "bicycle": ["bike"],
    "truck": ["lorry"],
    "motorcycle": ["motorbike"],
    "pig": ["hog"],
    "boat": ["sailboat", "sailing boat"],
    "umbrella": ["parasol", "beach umbrella"],
    "bucket": ["pail"],
    "shell": ["seashell"],
    "couch": ["sofa"],
    "television": ["tv"],
    "clock": ["alarm clock"],
    "laptop": ["notebook computer"],
    "book": [],
    "dog": ["puppy"],
    "ball": ["football", "soccer ball"],
    "flower": ["tulip"],
    "pine tree": ["fir tree"],
}
"""Other words for a class, used by the vocabulary that ships with the world."""

VOCABULARY: dict[str, list[str]] = {thing: SYNONYMS.get(thing, []) for thing in THINGS}
