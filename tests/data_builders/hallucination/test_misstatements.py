"""Right descriptions with one value put wrong: judged by the scene and a grammar of their own, not by the builder's
reader; no value is the better word; and what can't be put wrong gives nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.evidence import truth_of
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.misstatements import Misstater
from mmpo.data_builders.hallucination.value_questions import VALUE_KINDS
from mmpo.demo.scene import sample_scene
from mmpo.demo.things import COLORS
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.hallucination.test_corrected_claims import WORDS, Said, annotated, faults, truly, understood


def test_exactly_one_group_of_a_right_description_becomes_wrong() -> None:
    misstater = Misstater(Detector(WORDS, KINDS, exhaustive=True), COLORS)
    made: Counter[str] = Counter()
    surplus: Counter[tuple[str, object]] = Counter()
    for index in range(300):
        rng = random.Random(index)
        scene = sample_scene((0, 9, index))
        said = Said(rng.randrange(4), scene.place, tuple(truly(scene, rng)))
        truth = truth_of(annotated(scene), WORDS)
        found = list(misstater.misstate(str(said), truth, 2, rng))
        assert len({(item.kind, item.name) for item in found}) == len(found)
        for item in found:
            again = understood(item.text, said)
            assert str(again) == item.text, (str(said), item.text)
            assert {thing for thing, _ in faults(again.groups, scene)} == {item.name}, (str(said), item.text)
            changed = [group for group in again.groups if group not in said.groups]
            assert [group.thing for group in changed] == [item.name] and len(again.groups) == len(said.groups)
            made[item.kind] += 1
            surplus[item.kind, item.right] += 1
            surplus[item.kind, item.wrong] -= 1
            if item.kind == "color":
                colors = {str(other.color) for other in scene.items if other.color and other.color != item.right}
                assert item.wrong in (colors or COLORS)
    assert set(made) == set(VALUE_KINDS) and min(made.values()) > 50, made
    assert max(map(abs, surplus.values())) <= 2, surplus


def test_real_sentences_by_hand() -> None:
    words = ObjectVocabulary({"cup": ["mug"], "dog": [], "cat": []})
    things = (
        AnnotatedObject("dog", (0, 40, 10, 10), {"color": "brown"}), AnnotatedObject("dog", (10, 40, 10, 10)),
        AnnotatedObject("cup", (80, 80, 10, 10), {"color": "white"}),
    )  # fmt: skip
    truth = truth_of(AnnotatedImage("i", "i.png", Path("."), 100, 100, things), words)

    def of(text: str) -> set[str]:
        found = set()
        for seed in range(20):  # each with a fresh balance, so that every value may come first
            misstater = Misstater(Detector(words, KINDS), ["white", "blue"])
            found |= {item.text for item in misstater.misstate(text, truth, 3, random.Random(seed))}
        return found

    assert of("A white mug stands on the table.") == {
        "A brown mug stands on the table.", "Two white mugs stand on the table.",
    }  # fmt: skip
    assert of("Two dogs are asleep.") == {"Three dogs are asleep."}  # `one dog` would not be wrong of two
    assert of("There is a cup on the right.") == {
        "There is a cup on the left.", "There is a cup in the middle.", "There are two cups on the right.",
    }  # fmt: skip
    assert of("There is a cup at the bottom of the picture.") == {
        "There is a cup at the top of the picture.", "There are two cups at the bottom of the picture.",
    }  # fmt: skip
    assert of("A cat sleeps, and a white mug stands there.") == set()  # no right description
    assert of("There is no cat. A dog is outside.") == set()  # nothing in it that can be put wrong
    assert of("") == set()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_more_than_wanted(count: int) -> None:
    scene = sample_scene((0, 9, 3))
    text = str(Said(0, scene.place, tuple(truly(scene, random.Random(1)))))
    misstater = Misstater(Detector(WORDS, KINDS, exhaustive=True), COLORS)
    found = list(misstater.misstate(text, truth_of(annotated(scene), WORDS), count, random.Random(0)))
    assert len(found) <= count and bool(found) == bool(count)
