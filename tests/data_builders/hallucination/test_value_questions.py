"""Questions about numbers, colours and places: what is asked, how answers are read, and which pairs are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.truth import truth_of
from mmpo.data_builders.hallucination.affirmed import EvidenceReader
from mmpo.data_builders.hallucination.value_questions import (
    ValueAsked,
    ValueJudged,
    choose_value_questions,
    judge_values,
    read_answer,
    select_values,
)
from mmpo.demo.language import ask_color, ask_count, ask_side
from mmpo.demo.scene import SIDES, sample_scene
from mmpo.demo.things import COLORS, VOCABULARY
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.hallucination.test_corrected_claims import annotated

WORDS = ObjectVocabulary({"cup": ["mug"], "dog": [], "car": [], "sheep": [], "people": []})
TEMPLATES: Any = {"count": ["How many {objects}?"], "color": ["What color is the {object}?"], "place": ["Where is it?"]}
EACH: Any = {"count": 2, "color": 2, "place": 2}


def asked(kind: Any, right: str | int, number: int = 0, name: str = "cup") -> ValueAsked:
    return ValueAsked(f"i/{kind}{number}", "?", kind, name, right)


def test_only_what_the_annotation_knows_is_asked() -> None:
    things = (
        AnnotatedObject("cup", (0, 0, 10, 10), {"color": "Grey"}), AnnotatedObject("dog", (80, 0, 10, 10)),
        AnnotatedObject("dog", (60, 0, 10, 10)), AnnotatedObject("car", (35, 0, 10, 10), {"color": "plaid"}),
        AnnotatedObject("sheep", None, {"crowd": True}), AnnotatedObject("people", (0, 0, 5, 5)),
    )  # fmt: skip
    truth = truth_of(AnnotatedImage("i", "i.png", Path("."), 100, 100, things), WORDS)
    found = {
        (question.kind, question.name, question.right)
        for seed in range(20)
        for question in choose_value_questions("i", truth, per_image=EACH, templates=TEMPLATES, seed=seed)
    }
    assert found == {
        ("count", "cup", 1), ("count", "dog", 2), ("count", "car", 1), ("color", "cup", "gray"),
        ("place", "cup", "left"),  # the car is in the middle, and not far from the left
    }  # fmt: skip
    (first, *_) = choose_value_questions("i", truth, per_image=EACH, templates=TEMPLATES, seed=0)
    assert first.text in ("How many dogs?", "How many cups?", "How many cars?") and first.id == "i/count0"


@pytest.mark.parametrize(
    ("answer", "kind", "value", "other", "reworded"),
    [
        ("There are two cups.", "count", 2, 1, "There is one cup."),
        ("There is one cup in the image.", "count", 1, 3, "There are three cups in the image."),
        ("There is a mug.", "count", 1, 2, "There are two mugs."),
        ("There are no cups.", "count", 0, 2, "There are two cups."),
        ("Two.", "count", 2, 3, "Three."),
        ("2", "count", 2, 3, "3"),
        ("There are three", "count", 3, 1, "There are one"),
        ("The cup is red.", "color", "red", "blue", "The cup is blue."),
        ("Red", "color", "red", "blue", "Blue"),
        ("It is grey.", "color", "gray", "blue", "It is blue."),
        ("It's a red cup.", "color", "red", "orange", "It's an orange cup."),
        (
            "The cup is on the left side of the image.",
            "place",
            "left",
            "middle",
            "The cup is in the middle of the image.",
        ),
        ("It is on the left.", "place", "left", "right", "It is on the right."),
        ("On the left side", "place", "left", "right", "On the right side"),
    ],
)
def test_answers_are_read_and_said_with_another_value(
    answer: str, kind: str, value: Any, other: Any, reworded: str
) -> None:
    read = read_answer(answer, asked(kind, value), WORDS)
    assert read is not None and (read.value, read.worded(other)) == (value, reworded)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("There are two dogs.", "count"), ("Yes", "count"), ("", "count"), ("About three cups.", "count"),
        ("A red cup and a blue cup.", "color"), ("The cup is next to the dog.", "place"), ("On the table.", "place"),
        ("Red and white.", "color"), ("There are two cups, one on the left and one on the right.", "place"),
    ],
)  # fmt: skip
def test_answers_that_give_no_value(answer: str, kind: str) -> None:
    assert read_answer(answer, asked(kind, "left"), WORDS) is None


def balance(pairs: Any) -> dict[str | int, int]:
    surplus: Counter[str | int] = Counter()
    for pair in pairs:
        surplus[pair.judged.asked.right] += 1
        surplus[pair.wrong] -= 1
    return {value: number for value, number in surplus.items() if number}


def test_a_value_that_is_always_said_is_not_simply_the_worse_one() -> None:
    """A model that says `on the right` of everything: `right` must be chosen as often as it is rejected."""
    truths = ["left"] * 12 + ["middle"] * 9 + ["right"] * 9
    answered = [(asked("place", side, number), "The cup is on the right.") for number, side in enumerate(truths)]
    judged = judge_values(answered, WORDS)
    assert sum(item.right for item in judged) == 9
    kept, dropped = select_values(judged, keep_right_share=0.25, balanced=True, seed=0)
    assert len(kept) + sum(dropped.values()) == 30 and len(kept) >= 15
    assert all(abs(number) <= 1 for number in balance(kept).values())
    for pair in kept:
        assert (
            pair.judged.chosen
            == f"The cup is {dict(left=SIDES[0], middle=SIDES[1], right=SIDES[2])[pair.judged.asked.right]}."
        )
        assert (pair.rejected == "The cup is on the right.") != pair.judged.right
    everything, _ = select_values(judged, keep_right_share=0.0, balanced=False, seed=0)
    assert len(everything) == 21 and balance(everything)["right"] == -21
    assert select_values(judged, keep_right_share=0.25, balanced=True, seed=0)[0] == kept


def test_wrong_answers_that_nothing_balances_go() -> None:
    judged = judge_values([(asked("count", 2, n), "There is one cup.") for n in range(8)], WORDS)
    kept, dropped = select_values(judged, keep_right_share=0.25, balanced=True, seed=0)
    assert len(kept) <= 1 and dropped["unbalanced"] == 8 - len(kept)


def test_a_chosen_answer_that_says_more_is_not_taken() -> None:
    judged = judge_values(
        [(asked("place", "left"), "The cup is on the right, full of tea.")], WORDS, lambda item, text: "undecidable"
    )
    assert [item.drop_reason for item in judged] == ["undecidable"]
    assert select_values(judged, keep_right_share=1, balanced=False, seed=0) == ([], Counter({"chosen_undecidable": 1}))


def test_the_demos_answers_make_true_pairs() -> None:
    """Of 150 scenes: right answers pass, wrong ones are put right word for word, by the demo's own wording."""
    vocabulary = ObjectVocabulary(VOCABULARY)
    reader = EvidenceReader(vocabulary)
    kinds: Counter[str] = Counter()
    for index in range(150):
        scene = sample_scene((0, 9, index))
        truth = truth_of(annotated(scene), vocabulary)
        rng = np.random.default_rng(index)
        for question in choose_value_questions(
            str(index), truth, per_image={"count": 1, "color": 1, "place": 1}, templates=TEMPLATES, seed=0
        ):
            items = [item for item in scene.items if item.thing == question.name]
            if question.kind == "count":
                right = ask_count(scene, question.name).answer
                assert question.right == len(items)
                said: str | int = 1 + len(items) % 3
            elif question.kind == "place":
                right, said = ask_side(items[0]).answer, str(rng.choice(["left", "middle", "right"]))
            else:
                right, said = ask_color(items[0]).answer, str(rng.choice(list(COLORS)))
            wrong = read_answer(right, question, vocabulary)
            assert wrong is not None and wrong.value == question.right
            answer = wrong.worded(said)
            assert answer is not None
            (item,) = judge_values(
                [(question, answer)],
                vocabulary,
                lambda asked, text, truth=truth: reader.answer(text, truth, asked.name),
            )
            assert isinstance(item, ValueJudged) and item.chosen == right and not item.drop_reason
            assert item.right == (said == question.right)
            kinds[question.kind] += 1
    assert set(kinds) == {"count", "color", "place"} and min(kinds.values()) > 50
