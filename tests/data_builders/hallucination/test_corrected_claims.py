"""Descriptions of demo scenes with claims of every kind corrupted at random, put right as the builder does it, and
judged without its reader: by the scene, and by a grammar of these descriptions that says each one again.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.drafts import Draft, Drafter
from mmpo.data_builders.hallucination.repair import repaired
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.demo.language import NUMBERS, enumerate_phrases, noun_phrase
from mmpo.demo.scene import SIDES, Scene, sample_scene
from mmpo.demo.things import COLORED, COLORS, THINGS, VOCABULARY
from mmpo.demo.world import annotation
from mmpo.text.vocabulary import ObjectVocabulary
from mmpo.text.words import plural

WORDS = ObjectVocabulary(VOCABULARY)
Spread = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Group:
    """`two red cars, one on the left and one on the right`."""

    thing: str
    count: int
    color: str | None = None
    side: str = ""
    spread: Spread = ()

    def __str__(self) -> str:
        said = noun_phrase(self.thing, self.count, self.color)
        if self.spread:
            parts = [f"{NUMBERS[number]} {side}" for number, side in self.spread]
            return f"{said}, {enumerate_phrases(parts)}"
        return f"{said} {self.side}" if self.side else said


@dataclass(frozen=True)
class Said:
    form: int
    place: str
    groups: tuple[Group, ...]

    def __str__(self) -> str:
        place = noun_phrase(self.place)
        there = "There are" if self.groups and self.groups[0].count > 1 else "There is"
        listing = enumerate_phrases([str(group) for group in self.groups])
        capital = place[:1].upper() + place[1:]
        return (
            f"{capital} scene. {there} {listing}.",
            f"The picture shows {place}. {there} {listing}.",
            f"In this {self.place} picture I can see {listing}.",
            f"{capital} with {listing}.",
        )[self.form]


def truly(scene: Scene, rng: random.Random) -> list[Group]:
    """What is there, in the demo's words; groups that are apart with or without their places."""
    groups = []
    for thing in scene.things:
        items = [item for item in scene.items if item.thing == thing]
        sides = Counter(item.side for item in items)
        spread: Spread = tuple((sides[side], side) for side in SIDES if sides[side]) if len(sides) > 1 else ()
        side = items[0].side if len(sides) == 1 else ""
        groups.append(Group(thing, len(items), items[0].color, side, spread if rng.random() < 0.7 else ()))
    return groups


def corrupted(groups: list[Group], rng: random.Random) -> tuple[Group, ...]:
    """Other numbers, colours, places; things that are not there; things said twice."""
    found: list[Group] = []
    for group in groups:
        count, color, side, spread = group.count, group.color, group.side, group.spread
        if rng.random() < 0.3:
            count = rng.choice([n for n in (1, 2, 3, 4) if n != count])
        if color and rng.random() < 0.3:
            color = rng.choice([other for other in COLORS if other != color])
        if rng.random() < 0.3:
            side = rng.choice(["", *SIDES])
        if side or count == 1 or len(spread) > count:
            spread = ()
        elif spread and rng.random() < 0.5:
            first = rng.randrange(1, count)
            sides = sorted(rng.sample(range(3), 2))
            spread = (first, SIDES[sides[0]]), (count - first, SIDES[sides[1]])
        elif sum(number for number, _ in spread) != count:
            spread = ()
        found.append(Group(group.thing, count, color, side, spread))
    if rng.random() < 0.3:
        again = rng.choice(found)
        side = rng.choice(["", *SIDES])
        found.insert(rng.randrange(len(found) + 1), Group(again.thing, rng.choice([1, 1, 2]), again.color, side))
    if rng.random() < 0.4:
        thing = rng.choice([thing for thing in THINGS if thing not in [group.thing for group in groups]])
        color = rng.choice(list(COLORS)) if thing in COLORED else None
        found.insert(
            rng.randrange(len(found) + 1), Group(thing, rng.choice([1, 1, 2]), color, rng.choice(["", *SIDES]))
        )
    return tuple(found)


_NOUNS = {form: thing for thing in THINGS for form in (thing, plural(thing))}
_NUMBER = {word: number for number, word in enumerate(NUMBERS)} | {"a": 1, "an": 1}
_SIDE = "|".join(SIDES)
_GROUP = re.compile(
    rf"(?P<number>an?|{'|'.join(NUMBERS)}) (?:(?P<color>{'|'.join(COLORS)}) )?"
    rf"(?P<noun>{'|'.join(sorted(map(re.escape, _NOUNS), key=len, reverse=True))})\b"
    rf"(?:(?P<spread>, (?:(?:one|two|three) (?:{_SIDE})(?:, | and (?=(?:one|two|three) (?:on|in))|\b))+)"
    rf"| (?P<side>{_SIDE}))?"
)
_PART = re.compile(rf"(one|two|three) ({_SIDE})")


def understood(text: str, like: Said) -> Said:
    """The description taken apart by itself; said again it must be the same, or it is not this English."""
    listing = re.split(r"There (?:is|are) |I can see | with ", text, maxsplit=1)[-1] if like.groups else text
    groups = tuple(
        Group(
            _NOUNS[match["noun"]],
            _NUMBER[match["number"]],
            match["color"],
            match["side"] or "",
            tuple((_NUMBER[part[0]], part[1]) for part in _PART.findall(match["spread"] or "")),
        )
        for match in _GROUP.finditer(listing)
    )
    return Said(like.form, like.place, groups)


def faults(groups: tuple[Group, ...], scene: Scene) -> list[tuple[str, str]]:
    """The things of which the groups say what is not so in the scene, and what."""
    found = []
    for group in groups:
        items = [item for item in scene.items if item.thing == group.thing]
        alone = sum(other.thing == group.thing for other in groups) == 1
        here = [item for item in items if not group.side or item.side == group.side]
        if not items:
            found.append((group.thing, "absent"))
        elif group.color is not None and group.color != items[0].color:
            found.append((group.thing, str(group.color)))
        elif group.count > len(here) or (alone and group.count != len(here)):
            found.append((group.thing, f"{group.count} {group.side}"))
        elif group.spread and Counter(item.side for item in items) != Counter(
            {side: number for number, side in group.spread}
        ):
            found.append((group.thing, str(group)))
    for thing, side in {(group.thing, side) for group in groups for side in ("", group.side)}:
        said = sum(group.count for group in groups if group.thing == thing and (not side or group.side == side))
        there = sum(item.thing == thing and (not side or item.side == side) for item in scene.items)
        if said > there:
            found.append((thing, f"{said} {side} altogether"))
    return found


def annotated(scene: Scene) -> AnnotatedImage:
    import numpy as np

    row = annotation(scene, "s.png", np.random.default_rng(0))
    objects = tuple(
        AnnotatedObject(item["name"], tuple(map(float, item["bbox"])), item["attributes"])
        for item in row["objects"]  # type: ignore[attr-defined]
    )
    return AnnotatedImage("s", "s.png", Path("."), 128, 128, objects)


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    settings = BuildSettings(model="m", annotations=Path("a.jsonl"), exhaustive=True)
    return Drafter(settings, WORDS, None, None)


def test_the_judge_of_this_test_knows_right_from_wrong() -> None:
    scene = sample_scene((0, 8, 3))
    right = tuple(truly(scene, random.Random(0)))
    assert not faults(right, scene)
    group = right[0]
    for other in (
        Group("owl", 1), Group(group.thing, group.count + 1), Group(group.thing, group.count, "white"),
        Group(group.thing, group.count, None, next(side for side in SIDES if side != group.side)),
    ):  # fmt: skip
        assert faults((other,), scene)
    assert faults((*right, group), scene)


@pytest.mark.slow
def test_every_claim_that_is_chosen_is_true_and_in_english(drafter: Drafter) -> None:
    """400 scenes: a corrupted description gives a chosen side that is true throughout and well said; the rejected side
    is what was said; and what was put right once is right."""
    outcomes: Counter[str] = Counter()
    detector = Detector(WORDS, drafter.settings.correct, exhaustive=True)
    for index in range(400):
        rng = random.Random(index)
        scene = sample_scene((0, 9, index))
        groups = corrupted(truly(scene, rng), rng)
        said = Said(rng.randrange(4), scene.place, groups)
        text = str(said)
        assert understood(text, said) == said
        wrong = faults(groups, scene)
        image = annotated(scene)
        draft = Draft(f"{index}/0", image, (128, 128), drafter.detector.truth(image), text)
        drafter.check([draft])
        assert (draft.drop_reason == "nothing_hallucinated") == (not wrong), (text, wrong)
        if draft.drop_reason:
            outcomes["right"] += 1
            continue
        drafter.word([draft], {})
        chosen, rejected = draft.chosen[0], draft.rejected[0]
        assert rejected.text == text and not rejected.drop_reason
        outcomes[chosen.drop_reason or "paired"] += 1
        if chosen.drop_reason:
            continue
        again = understood(chosen.text, said)
        assert str(again) == chosen.text, (text, chosen.text)
        assert not faults(again.groups, scene), (text, chosen.text, faults(again.groups, scene))
        for group in again.groups:  # what nothing was wrong with stays as it was
            if group not in groups:
                assert group.thing in draft.added or group.thing in dict(wrong), (text, chosen.text)
        assert repaired(chosen.text, draft.truth, detector) == chosen.text
        second = Draft(f"{index}/1", image, (128, 128), draft.truth, chosen.text)
        drafter.check([second])
        assert second.drop_reason == "nothing_hallucinated"
    print(outcomes)
    assert outcomes["paired"] > 300 and outcomes["paired"] > 0.98 * (400 - outcomes["right"])
