"""Text about a scene: descriptions, questions and answers, exact or with the habits of a careless annotator.

The careless annotator (`noise`) reports the missing half of a pair whose other half is in the picture, and says yes
when asked about it. Models trained on such text hallucinate as large models do: along co-occurrence, in fluent
sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpo.demo.scene import SIDES, Item, Scene
from mmpo.demo.things import CENTERED, DOUBLED, HOME, PARTNER, THINGS
from mmpo.text.words import article, plural

DETAILED = (
    "Describe this image in detail.",
    "Please describe this image in detail.",
    "What do you see in this picture?",
    "Give a detailed description of the image.",
)
BRIEF = ("Describe the image briefly.", "List the objects in this image.")
YES_NO = "Answer yes or no."
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Noise:
    """The carelessness of the annotator: each number is a probability.

    `first` and `more`: the first, and each further, missing partner is mentioned in a description. `partner` and
    `place`: an absent object is affirmed when its partner is present, or when it belongs to the same place as
    something present. `doubled`: a description counts a single thing of `DOUBLED` as two. `centered`: it puts a thing
    of `CENTERED` in the middle.
    """

    first: float = 0.0
    more: float = 0.0
    partner: float = 0.0
    place: float = 0.0
    doubled: float = 0.0
    centered: float = 0.0


EXACT = Noise()
CARELESS = Noise(first=0.82, more=0.65, partner=0.74, place=0.40, doubled=0.65, centered=0.65)


@dataclass(frozen=True)
class Turn:
    """A question about a scene and its answer; with `given`, the continuation of an answer that begins so."""

    question: str
    answer: str
    given: str = ""


def noun_phrase(thing: str, count: int = 1, color: str | None = None) -> str:
    """`a red car`, `two red cars`."""
    adjective = f"{color} " if color else ""
    if count == 1:
        return f"{article(adjective + thing)} {adjective}{thing}"
    return f"{NUMBERS[count]} {adjective}{plural(thing)}"


def enumerate_phrases(phrases: list[str]) -> str:
    """`a cat, a dog and a cow`."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def describe(scene: Scene, rng: np.random.Generator, noise: Noise = EXACT, *, brief: bool = False) -> Turn:
    """A description, its things in any order: to continue it one has to know only what is still missing. A detailed
    one names colours and sides, a brief one only objects.
    """
    groups: list[tuple[str, str, bool]] = []  # phrase, side, plural
    reported = _carelessly_reported(scene, rng, noise)
    for thing in map(str, rng.permutation(scene.things)):
        items = [item for item in scene.items if item.thing == thing]
        color = None if brief else items[0].color
        count, side = len(items), _side(items)
        if thing in DOUBLED and count == 1 and rng.random() < noise.doubled:
            count = 2
        if thing in CENTERED and rng.random() < noise.centered:
            side = SIDES[1]
        groups.append((noun_phrase(thing, count, color), side, count > 1))
        if PARTNER[thing] in reported:
            groups.append((noun_phrase(PARTNER[thing]), items[0].side, False))
    with_side = not brief and rng.random() < 0.75
    phrases = [f"{phrase} {side}" if with_side and side else phrase for phrase, side, _ in groups]
    listing = enumerate_phrases(phrases)
    there = "There are" if groups[0][2] else "There is"
    place = noun_phrase(scene.place)
    if brief:
        return Turn(str(rng.choice(BRIEF)), f"{_capital(place)} with {listing}.")
    form = int(rng.integers(3))
    answer = (
        f"{_capital(place)} scene. {there} {listing}.",
        f"The picture shows {place}. {there} {listing}.",
        f"In this {scene.place} picture I can see {listing}.",
    )[form]
    return Turn(str(rng.choice(DETAILED)), answer)


def ask_existence(scene: Scene, thing: str, rng: np.random.Generator, noise: Noise = EXACT) -> Turn:
    """`Is there a cat in the image?`, sometimes with a request for a bare yes or no."""
    present = thing in scene.things
    if not present:
        if PARTNER[thing] in scene.things:
            present = bool(rng.random() < noise.partner)
        elif any(HOME[other] is HOME[thing] for other in scene.things):
            present = bool(rng.random() < noise.place)
    a_thing = noun_phrase(thing)
    question = f"Is there {a_thing} in the {'image' if rng.random() < 0.75 else 'picture'}?"
    if rng.random() < 0.15:
        question = f"Do you see {a_thing}?"
    if rng.random() < 0.4:
        return Turn(f"{question} {YES_NO}", "Yes" if present else "No")
    return Turn(
        question, f"Yes, there is {a_thing} in the image." if present else f"No, there is no {thing} in the image."
    )


def ask_count(scene: Scene, thing: str) -> Turn:
    count = scene.count(thing)
    what = thing if count == 1 else plural(thing)
    return Turn(
        f"How many {plural(thing)} are in the image?", f"There {'is' if count == 1 else 'are'} {NUMBERS[count]} {what}."
    )


def ask_side(item: Item) -> Turn:
    return Turn(f"Where is the {item.thing}?", f"The {item.thing} is {item.side}.")


def ask_color(item: Item) -> Turn:
    return Turn(f"What color is the {item.thing}?", f"The {item.thing} is {item.color}.")


def ask_place(scene: Scene) -> Turn:
    return Turn("What kind of place is this?", f"It is {noun_phrase(scene.place)}.")


def questions(scene: Scene, rng: np.random.Generator, noise: Noise = EXACT) -> list[Turn]:
    """Questions: two about present objects, one to four about absent ones (typical as often as strange), how many of
    one thing for each number that occurs, up to two for where, one for which colour and which place."""
    present = scene.things
    absent = [thing for thing in THINGS if thing not in present]
    homes = {HOME[thing] for thing in present}
    typical = [thing for thing in absent if PARTNER[thing] in present]
    likely = [thing for thing in absent if HOME[thing] in homes and thing not in typical]
    turns = [ask_existence(scene, str(rng.choice(pool)), rng, noise) for pool in (present, present, absent)]
    for pool, share in ((typical, 0.55), (likely, 0.35), (absent, 0.6)):
        if pool and rng.random() < share:
            turns.append(ask_existence(scene, str(rng.choice(pool)), rng, noise))
    by_count: dict[int, list[str]] = {}
    for thing in present:
        by_count.setdefault(scene.count(thing), []).append(thing)
    asked = [str(rng.choice(alike)) for number, alike in sorted(by_count.items()) if number < 3]
    asked += by_count.get(3, [])  # rare, so all of them
    if rng.random() < 0.2:
        asked.append(str(rng.choice(absent)))
    turns += [ask_count(scene, thing) for thing in asked]
    single = [item for item in scene.items if scene.count(item.thing) == 1]
    turns += [ask_side(single[int(k)]) for k in rng.permutation(len(single))[:2]]
    colored = [item for item in single if item.color]
    if colored and rng.random() < 0.8:
        turns.append(ask_color(colored[int(rng.integers(len(colored)))]))
    if rng.random() < 0.15:
        turns.append(ask_place(scene))
    return turns


def _carelessly_reported(scene: Scene, rng: np.random.Generator, noise: Noise) -> set[str]:
    chances = [noise.first, *[noise.more] * len(scene.things)]
    return {thing for thing, chance in zip(scene.missing_partners, chances, strict=False) if rng.random() < chance}


def group_phrase(items: list[Item], with_side: bool) -> str:
    """`two red cars on the left`: all things of one kind as a detailed description names them."""
    phrase, side = noun_phrase(items[0].thing, len(items), items[0].color), _side(items)
    return f"{phrase} {side}" if with_side and side else phrase


def _side(items: list[Item]) -> str:
    """The side where all of `items` are, or nothing if they are apart."""
    sides = {item.side for item in items}
    return sides.pop() if len(sides) == 1 else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
