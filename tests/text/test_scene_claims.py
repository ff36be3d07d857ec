"""What a text claims about a picture, and what annotation says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.truth import corrected, decide, truth_of
from mmpo.demo.language import EXACT, ask_color, ask_count, ask_side, describe
from mmpo.demo.scene import sample_scene
from mmpo.demo.seen_by_kind import truth_of_scene
from mmpo.demo.things import THINGS, VOCABULARY
from mmpo.text.scene_claims import Claim, Number, read_claims
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary(
    {"car": [], "cup": ["mug"], "dog": [], "cat": [], "sheep": [], "scissors": [], "person": ["man", "people"]}
)


def said(text: str, *, exhaustive: bool = False) -> list[tuple[str, str, Any]]:
    """Each claim but those of presence: its class, its words, and its value (`2`, `2+`)."""
    found = []
    for claim in read_claims(text, WORDS, exhaustive=exhaustive):
        if claim.kind != "object":
            value: Any = claim.value
            if isinstance(value, Number):
                value = f"{value.least}+" if value.most is None else value.most
            found.append((claim.name, text[claim.start : claim.end], value))
    return found


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        (
            "There are two red cars on the left, a dog in the middle and a mug.",
            [("car", "two red cars", "2+"), ("car", "red", "red"), ("car", "on the left", "left"),
             ("dog", "a dog", "1+"), ("dog", "in the middle", "middle"), ("cup", "a mug", "1+")],
        ),
        ("There are two cars.", [("car", "two cars", 2)]),
        ("There is one dog in the image.", [("dog", "one dog", 1)]),
        ("The image shows a cat and three dogs.", [("cat", "a cat", "1+"), ("dog", "three dogs", 3)]),
        ("There are two dogs sleeping.", [("dog", "two dogs", "2+")]),  # others may be awake
        ("Two dogs are sleeping.", [("dog", "Two dogs", "2+")]),
        ("There are two large dogs.", [("dog", "two large dogs", "2+")]),
        ("There are two dogs. A dog sleeps.", [("dog", "two dogs", "2+"), ("dog", "A dog", "1+")]),
        ("The two dogs play.", [("dog", "two dogs", "2+")]),
        ("There are no dogs.", [("dog", "no dogs", 0)]),
        ("There are no dogs on the left, and not a cat.", []),
        ("A couple of cups and a pair of scissors.",
         [("cup", "A couple of cups", "2+"), ("scissors", "a pair of scissors", "1+")]),
        ("Several dogs, a few cups, a large group of people.",
         [("dog", "Several dogs", "3+"), ("cup", "a few cups", "2+"), ("person", "a large group of people", "2+")]),
        ("About ten dogs, two or three cups, at least two cars.", [("car", "two cars", "2+")]),
        ("One of the dogs and other cups.", []),
        ("A two year old dog and a sheep.", [("sheep", "a sheep", "1+")]),
        ("A dog and a dog.", [("dog", "A dog", "1+"), ("dog", "a dog", "2+")]),
        ("A dog. A dog sleeps. Another dog eats.",
         [("dog", "A dog", "1+"), ("dog", "A dog", "1+"), ("dog", "Another dog", "2+")]),
        ("The car is red. The cat that is black sleeps.", [("car", "red", "red"), ("cat", "black", "black")]),
        ("The car on the left is grey.", [("car", "grey", "gray"), ("car", "on the left", "left")]),
        ("A black and white cat. The car is red and white.", [("cat", "A black and white cat", "1+")]),
        ("A red car door and a man in a red shirt with a cup.", [("person", "a man", "1+"), ("cup", "a cup", "1+")]),
        ("The dog is on the right side of the image.", [("dog", "on the right side of the image", "right")]),
        ("The dog is on the left of the car, not on the right.", [("dog", "on the left of", "left")]),
        ("The dog is to the left of the cat. The cup below a car.",
         [("dog", "to the left of", "left"), ("cup", "below", "bottom"), ("car", "a car", "1+")]),
        ("The dog is on the left side of the room, the cup in the middle of the table.",
         [("dog", "on the left side of the room", "left")]),
        ("On the left, there is a dog.", [("dog", "a dog", "1+"), ("dog", "On the left", "left")]),
        ("On the left, there is a dog and a cat.", [("dog", "a dog", "1+"), ("cat", "a cat", "1+")]),
        ("There are two red cars, one on the left and one on the right, and a dog on the left.",
         [("car", "two red cars", 2), ("car", "red", "red"), ("car", "on the left", "left"),
          ("car", "on the right", "right"), ("dog", "a dog", "1+"), ("dog", "on the left", "left")]),
        ("There are three cars, two on the left and one in the middle.",
         [("car", "three cars", 3), ("car", "on the left", "left"), ("car", "in the middle", "middle")]),
        ("There are two dogs in the image, one near the left side and another in the center.",
         [("dog", "two dogs", 2), ("dog", "near the left side", "left"), ("dog", "in the center", "middle")]),
        ("There are three dogs, with one dog sleeping and another dog eating.",
         [("dog", "three dogs", "3+"), ("dog", "one dog", "1+"), ("dog", "another dog", "1+")]),
        ("Dogs everywhere, with one dog in the image. A third dog, two more dogs.", [("dog", "one dog", "1+")]),
    ],
)  # fmt: skip
def test_claims_that_are_read(text: str, claims: list[tuple[str, str, Any]]) -> None:
    assert said(text) == claims


def test_a_text_that_lists_everything_counts_exactly() -> None:
    assert said("A dog, two cars on the left and a cat.", exhaustive=True) == [
        ("dog", "A dog", 1),
        ("car", "two cars", 2),
        ("car", "on the left", "left"),
        ("cat", "a cat", 1),
    ]
    assert said("A dog on the left and two dogs.", exhaustive=True)[-1] == ("dog", "two dogs", 3)


def thing(name: str, x: int = 5, y: int = 40, **attributes: Any) -> AnnotatedObject:
    return AnnotatedObject(name, (x, y, 10, 10), attributes)


PICTURE = truth_of(
    AnnotatedImage(
        "i", "i.png", Path("."), 100, 100,
        (
            thing("car", 5, color="red"), thing("car", 80, color="blue"), thing("cup", 70), thing("cup", 75),
            thing("dog", 33, y=0), thing("sheep", crowd=True), thing("cat", 60, color="grey"),
            AnnotatedObject("scissors"),
        ),
        ("A man.",),
    ),
    WORDS,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "verdicts"),  # of the last claim: its truth, and what would be true
    [
        ("A car.", (True, 2)), ("There are two cars.", (True, 2)), ("Three cars.", (False, 2)),
        ("There are two cups on the right.", (True, "right")), ("Two cups on the left.", (False, "right")),
        ("Two cars on the left.", (False, None)), ("A car on the left.", (True, "left")),
        ("A car in the middle.", (False, "left")), ("The dog is on the left.", (None, "middle")),
        ("The dog is in the middle.", (True, "middle")), ("The dog is at the top.", (True, "top")),
        ("The dog is at the bottom.", (False, "top")), ("The scissors are on the left.", (None, None)),
        ("Five sheep.", (None, None)), ("Three people.", (None, None)), ("Several cups.", (None, 2)),
        ("Several dogs.", (False, 1)), ("There is one cup.", (False, 2)), ("There are no cups.", (False, 2)),
        ("There are no people.", (False, None)), ("A dog and a dog.", (False, 0)), ("A car and a car.", (True, 1)),
 ("The cat is gray.", (True, "gray")), ("A white cat.", (False, "gray")),
        ("A blue car on the left.", (True, "left")), ("The dog is red.", (None, None)),
        ("The cat is to the left of the dog.", (False, "right")),
        ("The cat is to the right of the dog.", (True, "right")),
        ("The cat is to the left of the cup.", (True, "left")), ("The dog is above the cat.", (True, "top")),
        ("The car is to the left of the cat.", (True, "left")), ("The cat is below the car.", (None, None)),
        ("There are two cars, one on the left and one on the right.", (True, "right")),
        ("There are two cars, one on the left and one in the middle.", (False, "right")),
        ("There are two cups, one on the left and one on the right.", (False, None)),
    ],
)  # fmt: skip
def test_what_annotation_says(text: str, verdicts: tuple[bool | None, Any]) -> None:
    claim = read_claims(text, WORDS)[-1]
    if claim.kind == "object":
        claim = [claim for claim in read_claims(text, WORDS) if claim.kind != "object"][-1]
    assert (decide(claim, PICTURE), corrected(claim, PICTURE)) == verdicts


def test_a_list_of_names_does_not_tell_how_many_there_are() -> None:
    """A name stands for one object or for all of them; a box or a place in words is of a single one."""
    listed = truth_of(
        AnnotatedImage(
            "i", "i.png", Path("."), 100, 100,
            (
                AnnotatedObject("dog"), thing("cat", 5), AnnotatedObject("cat", None, {"color": "red"}),
                AnnotatedObject("car", None, {"side": "on the left"}), AnnotatedObject("cup", None, {"side": "here"}),
            ),
        ),
        WORDS,
    )  # fmt: skip
    assert {name: listed.marked(name) and len(listed.marked(name) or ()) for name in listed.objects} == {
        "dog": None, "cat": None, "car": 1, "cup": None,
    }  # fmt: skip
    texts = ["There are two dogs.", "There are three cats.", "There are two cups.", "There are two cars."]
    counts = [claim for text in texts for claim in read_claims(text, WORDS) if claim.kind == "count"]
    assert [decide(claim, listed) for claim in counts] == [None, None, None, False]
    assert [corrected(claim, listed) for claim in counts] == [None, None, None, 1]
    assert [decide(claim, listed) for claim in read_claims("A dog. There are no dogs.", WORDS) if claim.value] == [
        True,
        None,
        False,
    ]


def test_two_things_said_of_one_object_hold_of_one() -> None:
    """There is a red car and there is a car on the right, but no red car on the right."""
    claims = {claim.kind: claim for claim in read_claims("A red car on the right.", WORDS)}
    assert decide(claims["place"], PICTURE) is True
    assert decide(claims["color"], PICTURE) is False and corrected(claims["color"], PICTURE) == "blue"


def test_of_what_is_absent_only_that_is_decided() -> None:
    nothing = truth_of(AnnotatedImage("i", "i.png", Path("."), 9, 9), WORDS)
    assert [decide(claim, nothing) for claim in read_claims("Two red cars on the left.", WORDS)] == [
        False,
        None,
        None,
        None,
    ]
    assert decide(read_claims("There are no cars.", WORDS)[0], nothing) is True


def test_the_demos_language_is_read_exactly() -> None:
    """Each thing of a description has one claim of presence and number, and as many colours and places as are said; all
    are true, and what would be true is what is said."""
    vocabulary = ObjectVocabulary(VOCABULARY)
    kinds: dict[str, int] = {}
    for index in range(200):
        scene = sample_scene((0, 8, index))
        rng = np.random.default_rng(index)
        truth = truth_of_scene(scene, vocabulary)
        single = [item for item in scene.items if scene.count(item.thing) == 1]
        texts = [describe(scene, rng, EXACT, brief=index % 4 == 0).answer]
        texts += [ask_side(item).answer for item in single] + [ask_color(item).answer for item in single if item.color]
        texts += [ask_count(scene, thing).answer for thing in (*scene.things, THINGS[index % len(THINGS)])]
        for text in texts:
            claims = read_claims(text, vocabulary, exhaustive=True)
            by_kind = {kind: [c for c in claims if c.kind == kind] for kind in ("object", "count", "color", "place")}
            if text == texts[0]:
                assert sorted(c.name for c in by_kind["object"]) == sorted(scene.things)
                assert sorted(c.name for c in by_kind["count"]) == sorted(scene.things)
                assert len(by_kind["place"]) == sum(text.count(f"{at} the ") for at in ("on", "in")) - text.count(
                    "in the image"
                )
            assert all(decide(claim, truth) is True for claim in claims), text
            assert all(corrected(claim, truth) == _value(claim) for claim in claims), text
            for claim in claims:
                kinds[claim.kind] = kinds.get(claim.kind, 0) + 1
    assert min(kinds.values()) > 80 and set(kinds) == {"object", "count", "color", "place"}


def _value(claim: Claim) -> Any:
    return claim.value.most if isinstance(claim.value, Number) else claim.value
