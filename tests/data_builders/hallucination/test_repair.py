"""Numbers, colours and places are compared with the annotation, and put right in English."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, Region
from mmpo.data_builders.hallucination.detect import Detector, hallucinated
from mmpo.data_builders.hallucination.repair import repaired
from mmpo.demo.language import EXACT, describe
from mmpo.demo.scene import Scene, sample_scene
from mmpo.demo.things import COLORED, COLORS, VOCABULARY
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary({"car": [], "cup": ["mug"], "dog": [], "cat": [], "person": ["man"], "apple": []})
PICTURE = AnnotatedImage(
    "i", "i.png", Path("."), 90, 90,
    (
        AnnotatedObject("car", (0, 0, 20, 20), {"color": "red"}),
        AnnotatedObject("cup", (70, 60, 10, 10), {"color": "orange"}),
        AnnotatedObject("cup", (75, 60, 10, 10), {"color": "blue"}),
        AnnotatedObject("dog", (40, 0, 10, 10)),
        AnnotatedObject("person", (0, 0, 90, 90), {"crowd": True}),
    ),
    (),
    (Region("a cat asleep"),),
)  # fmt: skip
DETECTOR = Detector(WORDS, KINDS)
TRUTH = DETECTOR.truth(PICTURE)


def wrong(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in hallucinated(DETECTOR.check(text, TRUTH))]


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("There is a red car on the left and two mugs.", []),
        ("There are three mugs.", [("count", "three mugs")]),
        (
            "There are 3 blue mugs and two red cars.",
            [("count", "3 blue mugs"), ("color", "blue"), ("count", "two red cars")],
        ),
        ("One of the cups is blue, and two people are there.", []),  # the crowd has no number
        ("There is a cup.", []),
        ("There is a blue car.", [("color", "blue")]),
        ("The car is blue.", [("color", "blue")]),
        ("A black and white car is here. The car is red and white.", []),
        ("There is a green dog and a grey cat.", []),  # no colour is marked
        ("There is a car in the middle.", [("place", "in the middle")]),
        ("There is a dog on the left of the car and a car to the left side of the cup.",
         [("relation", "on the left of")]),  # not of the picture
        ("There is a dog on the right side of the image.", [("place", "on the right side of the image")]),
        ("There is a cup at the bottom and a dog at the bottom.", [("place", "at the bottom")]),
        ("Two cups on the left.", [("place", "on the left")]),
        ("There is a cat on the left.", []),  # named by a phrase, no box
        ("A red dog and a bird.", []),
    ],
)  # fmt: skip
def test_mistakes(text: str, mistakes: list[tuple[str, str]]) -> None:
    assert wrong(text) == mistakes


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("There are three mugs and a dog.", "There are two mugs and a dog."),
        ("There are two dogs and a cat.", "There is a dog and a cat."),
        ("Two dogs are sleeping.", "A dog is sleeping."),
        ("Two dogs sleep here.", "A dog sleeps here."),
        ("Three mugs stand by a dog.", "Two mugs stand by a dog."),
        ("There is a blue car.", "There is a red car."),
        ("There is a red mug.", "There is an orange mug."),
        ("There is a dog. There are two blue cars in the middle.", "There is a dog. There is a red car on the left."),
        ("There is a dog on the far right.", "There is a dog in the middle."),
        ("There are two blue mugs and a dog.", "There are two mugs and a dog."),  # one is orange
        ("A dog is sleeping. The mugs are blue. A car.", "A dog is sleeping. A car."),
        ("On the right, there is a dog. It sleeps.", "In the middle, there is a dog. It sleeps."),
        ("There is a dog on the left side of the image.", "There is a dog in the middle of the image."),
        ("There is a dog to the left of the car.", "There is a dog to the right of the car."),
        ("The car is above the mugs.", "The car is above the mugs."),
        ("A car and a car.", "A car."),
        ("There is a car on the right, a dog and a car on the left.", "There is a dog and a car on the left."),
        ("There is a car and another car, and two mugs.", "There is a car and two mugs."),
        ("Both dogs are asleep.", "The dog is asleep."),
        ("The three mugs are blue.", "The mug is blue."),
        ("There are two dogs in the image, both asleep. They are old. A car.", "A car."),
        (
            "There are three mugs, two on the left and one on the right, and a dog.",
            "There are two mugs on the right, and a dog.",
        ),
        (
            "There are two dogs, one on the left and one in the middle, and a car.",
            "There is a dog in the middle, and a car.",
        ),
        ("The picture shows several dogs.", "The picture shows a dog."),
        ("There are no mugs.", "There are two mugs."),
        ("There is a person. Five people stand there.", "There is a person. Five people stand there."),  # a crowd
    ],
)
def test_repairs(text: str, right: str) -> None:
    assert repaired(text, TRUTH, DETECTOR) == right
    assert not wrong(right)


def test_a_verdict_says_why() -> None:
    verdicts = DETECTOR.check("There are three mugs. A blue car. A dog on the right.", TRUTH)
    assert [verdict.reason for verdict in verdicts] == [
        "2 cups, not 3",
        "the car is red, not blue",
        "the dog is in the middle, not on the right",
    ]


def annotated(scene: Scene) -> AnnotatedImage:
    objects = tuple(
        AnnotatedObject(item.thing, tuple(map(float, item.box)), {"color": item.color} if item.color else {})  # type: ignore[arg-type]
        for item in scene.items
    )
    return AnnotatedImage("s", "s.png", Path("."), 128, 128, objects)


def test_exact_descriptions_of_the_demo_world_are_right_and_changed_ones_are_put_right() -> None:
    """Descriptions without mistakes have none; with another colour, number or side they do, and can be repaired."""
    vocabulary = ObjectVocabulary(VOCABULARY)
    detector = Detector(vocabulary, KINDS, exhaustive=True)
    found = {"count": 0, "color": 0, "place": 0}
    for index in range(150):
        scene = sample_scene((0, 8, index))
        truth = detector.truth(annotated(scene))
        rng = np.random.default_rng(index)
        text = describe(scene, rng, EXACT).answer
        assert not hallucinated(detector.check(text, truth)), text
        for color in COLORS:
            other = next(name for name in COLORS if name != color)
            for thing in COLORED:
                if f"{color} {thing}" in text:
                    found["color"] += _is_repaired(detector, vocabulary, truth, text, text.replace(color, other), text)
        for old, new in (("two", "three"), ("three", "two")):
            if f" {old} " in text:
                found["count"] += _is_repaired(
                    detector, vocabulary, truth, text, text.replace(f" {old} ", f" {new} "), None
                )
        if text.count("on the left") == 1:
            moved = text.replace("on the left", "on the right")
            found["place"] += _is_repaired(detector, vocabulary, truth, text, moved, text)
    assert found["color"] > 20 and found["count"] > 10 and found["place"] > 20


def _is_repaired(detector, vocabulary, truth, text, changed, expected) -> bool:  # type: ignore[no-untyped-def]
    verdicts = detector.check(changed, truth)
    if not hallucinated(verdicts):
        return False
    again = repaired(changed, truth, detector)
    assert not hallucinated(detector.check(again, truth)), (text, changed, again)
    assert expected is None or again == expected
    return True


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("There is a blue cup.", "There is a red cup."),
        ("A blue cup stands there.", "A red cup stands there."),
        ("There are two blue cups.", "There are two cups."),  # which of how many is not known
    ],
)
def test_the_colour_of_one_without_a_box_is_put_right(text: str, right: str) -> None:
    image = AnnotatedImage("i", "i.png", Path("."), 90, 90, (AnnotatedObject("cup", None, {"color": "red"}),))
    assert repaired(text, DETECTOR.truth(image), DETECTOR) == right
