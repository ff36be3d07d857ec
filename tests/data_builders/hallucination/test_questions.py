"""Which questions are asked, how answers are worded, and which pairs are kept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mmpo.data_builders.hallucination.questions import (
    AnswerForms,
    CoOccurrence,
    ObjectQuestion,
    choose_questions,
    judge,
    says_yes,
    select,
    turned,
)
from mmpo.data_builders.hallucination.settings import QuestionSettings

COMMON = CoOccurrence(
    [frozenset(names) for names in (["cup", "fork"], ["cup", "fork", "knife"], ["dog", "ball"], ["cup"])]
)


HERE = ["Is there {article} {object} here?"]


def asked(name: str, present: bool, number: int = 0) -> ObjectQuestion:
    return ObjectQuestion(f"i/q{number}", f"Is there a {name}?", 0, name, present)


def test_co_occurrence() -> None:
    scores = COMMON.plausible(frozenset({"fork"}))
    assert scores == {"cup": 1.0, "knife": 0.5, "ball": 0.0, "dog": 0.0}


def test_questions_are_balanced_and_lean_to_plausible_objects() -> None:
    present = frozenset({"fork", "cup"})
    absent_asked = []
    for seed in range(60):
        chosen = choose_questions("i", present, COMMON, count=2, templates=HERE, seed=seed)
        assert [question.present for question in chosen] == [True, False]
        assert chosen[0].name in present and chosen[1].name not in present
        assert chosen[1].text == f"Is there a {chosen[1].name} here?"
        absent_asked.append(chosen[1].name)
    assert absent_asked.count("knife") > 40
    assert chosen == choose_questions("i", present, COMMON, count=2, templates=HERE, seed=59)
    everything = frozenset(COMMON.names)
    assert all(q.present for q in choose_questions("i", everything, COMMON, count=4, templates=["{object}?"], seed=0))


def test_more_questions_than_objects() -> None:
    chosen = choose_questions("i", frozenset({"dog"}), COMMON, count=8, templates=["{object}?"], seed=0)
    assert [question.present for question in chosen] == [True, False]


@pytest.mark.parametrize(
    ("answer", "yes"), [("Yes.", True), ("no", False), (" No, there is a yes.", False), ("Yesterday", None), ("", None)]
)
def test_what_an_answer_says(answer: str, yes: bool | None) -> None:
    assert says_yes(answer) is yes


@pytest.mark.parametrize(
    ("answer", "name", "other"),
    [
        ("Yes", "dog", "No"),
        ("no.", "dog", "yes."),
        ("Yes, there is a dog in the image.", "dog", "No, there is no dog in the image."),
        ("No, there is no apple in the image.", "apple", "Yes, there is an apple in the image."),
        ("No, there are no dogs.", "dog", "Yes, there are dogs."),
        ("Yes, there are some dogs.", "dog", "No, there are no dogs."),
        ("Yes, I can see a dog.", "dog", "No, I cannot see any dog."),
        ("Yes, the dog is asleep.", "dog", "No."),
    ],
)
def test_turning_an_answer_around(answer: str, name: str, other: str) -> None:
    assert turned(answer, name) == other


def test_turning_needs_yes_or_no() -> None:
    with pytest.raises(ValueError, match="neither yes nor no"):
        turned("Perhaps.", "dog")


def test_answers_are_worded_as_the_model_words_them() -> None:
    forms = AnswerForms(
        [
            (asked("dog", True), "Yes, I see a dog over there."),
            (asked("cup", True), "Yes, I see a cup over there."),
            (asked("owl", False), "No owl in sight."),
            (asked("cat", False), "Well"),
        ]
    )
    assert forms.word(asked("apple", True), True, "No apple in sight.") == "Yes, I see an apple over there."
    assert forms.word(asked("apple", False), False, "Yes, I see an apple over there.") == "No apple in sight."
    other_template = ObjectQuestion("i/q9", "?", 1, "dog", True)
    assert forms.word(other_template, False, "Yes.") == "No."


def test_judging() -> None:
    right, wrong = judge([(asked("dog", True), "Yes."), (asked("cup", False), "Yes."), (asked("owl", True), "Hm.")])
    assert (right.right, right.chosen, right.rejected) == (True, "Yes.", "No.")
    assert (wrong.right, wrong.chosen, wrong.rejected) == (False, "No.", "Yes.")


def many(wrong_no: int, wrong_yes: int, right_no: int, right_yes: int) -> list[tuple[ObjectQuestion, str]]:
    rows = []
    for count, present, answer in (
        (wrong_no, False, "Yes."), (wrong_yes, True, "No."), (right_no, False, "No."), (right_yes, True, "Yes."),
    ):  # fmt: skip
        rows += [(asked("dog", present, len(rows) + number), answer) for number in range(count)]
    return rows


@pytest.mark.parametrize(
    ("counts", "share", "kept"),
    [
        ((6, 1, 4, 9), 0.0, 12),  # five right yes answers balance the six wrong ones
        ((6, 1, 4, 9), 0.5, 18),  # and three of each side join
        ((6, 0, 4, 2), 0.0, 4),  # too few right ones: two pairs a side
        ((0, 0, 3, 3), 0.0, 0),
        ((0, 0, 0, 0), 1.0, 0),
    ],
)
def test_selection_is_balanced(counts: tuple[int, int, int, int], share: float, kept: int) -> None:
    judged = judge(many(*counts))
    chosen, dropped = select(judged, keep_right_share=share, seed=3)
    assert len(chosen) == kept
    assert sum(item.asked.present for item in chosen) * 2 == kept
    assert len(chosen) + sum(dropped.values()) == len(judged)
    assert chosen == select(judged, keep_right_share=share, seed=3)[0]


@pytest.mark.parametrize(
    ("counts", "weights", "share", "kept"),  # counts: wrong no, wrong yes, right no, right yes; kept: no, yes
    [
        ((20, 2, 4, 9), {False: 10, True: 1}, 0.0, (20, 2)),
        ((20, 0, 4, 9), {False: 10, True: 1}, 0.0, (20, 2)),  # two right yes answers join
        ((6, 1, 4, 9), {False: 1, True: 1}, 0.5, (9, 9)),
        ((6, 1, 4, 9), {False: 0.5, True: 0.5}, 0.5, (9, 9)),
        ((4, 4, 0, 0), {False: 3, True: 1}, 0.0, (4, 1)),
        ((4, 4, 0, 0), {False: 1, True: 0}, 0.0, (4, 0)),
        ((6, 1, 4, 8), None, 0.0, (6, 1)),
        ((6, 1, 4, 8), None, 0.5, (8, 5)),
        ((0, 0, 0, 0), {False: 3, True: 1}, 1.0, (0, 0)),
    ],
)
def test_selection_keeps_the_weights(
    counts: tuple[int, int, int, int], weights: dict[bool, float] | None, share: float, kept: tuple[int, int]
) -> None:
    judged = judge(many(*counts))
    chosen, dropped = select(judged, keep_right_share=share, seed=3, weights=weights)
    yes = sum(item.asked.present for item in chosen)
    assert (len(chosen) - yes, yes) == kept
    assert len(chosen) + sum(dropped.values()) == len(judged)


def test_the_published_shares_can_be_asked_for() -> None:
    """HA-DPO's LLaVA set: 1,403 no to 141 yes. From ample answers the share is met."""
    settings = QuestionSettings.model_validate({"balance": {"no": 1403, "yes": 141}})
    judged = judge(many(300, 300, 300, 300))
    chosen, _ = select(judged, keep_right_share=0.25, seed=0, weights=settings.weights())
    yes = sum(item.asked.present for item in chosen)
    assert abs(yes / len(chosen) - 141 / 1544) < 0.005 and len(chosen) > 300


@pytest.mark.parametrize(
    "balance",
    [
        "even", 1, {"no": 1}, {"no": 1, "yes": -1}, {"no": 0, "yes": 0}, {"no": "1", "yes": 1}, {"no": True, "yes": 1},
        {"no": float("nan"), "yes": 1}, {"no": float("inf"), "yes": 1}, {"no": 1, "yes": 1, "maybe": 1}, [1, 1], None,
    ],
)  # fmt: skip
def test_balances_that_are_none(balance: object) -> None:
    with pytest.raises(ValidationError):
        QuestionSettings.model_validate({"balance": balance})
    assert QuestionSettings.model_validate({"balance": "none"}).weights() is None
    assert QuestionSettings().weights() == {True: 1.0, False: 1.0}
