"""Editing candidates by verdicts of three values: absent out, what is put in is present, uncertain on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.truth import decide
from mmpo.data_builders.candidates.records import Candidate
from mmpo.data_builders.from_candidates.maker import MadePair
from mmpo.data_builders.from_candidates.makers.edited import EditedCandidates, EditedSettings
from mmpo.data_builders.from_candidates.truths import truth_of_picture
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.questions import CoOccurrence, choose_questions
from mmpo.errors import Quarantined
from mmpo.evidence.records import Presence
from mmpo.text.scene_claims import read_claims
from tests.data_builders.from_candidates.pictures import VOCABULARY, context, judged

VERDICTS: dict[str, Presence] = {
    "cat": "present", "cup": "present", "dog": "absent", "horse": "absent", "bird": "uncertain",
}  # fmt: skip


def make(
    folder: Path, texts: Sequence[str | Candidate], verdicts: dict[str, Presence] = VERDICTS, **settings: Any
) -> list[MadePair]:
    maker = EditedCandidates(EditedSettings(**settings), context(folder))
    (found,) = maker.make(0, [judged("a.png", texts, verdicts)], lambda: None)
    if isinstance(found, Quarantined):
        raise found
    return found


def test_a_sentence_is_right_only_if_all_its_claims_are_known_to_be() -> None:
    truth = truth_of_picture(judged("a.png", [], VERDICTS))
    text = "A cat. A cat and a dog. A cat and a bird. A bird. Nice weather. A bird and a dog."
    verdicts = Detector(VOCABULARY).check(text, truth)
    assert [one.verdict for one in verdicts] == [
        "correct", "hallucination", "unchecked", "unchecked", "unchecked", "hallucination",
    ]  # fmt: skip
    assert verdicts[2].reason == "not known: bird"
    decided = {claim.name: decide(claim, truth) for claim in read_claims(text, VOCABULARY) if claim.kind == "object"}
    assert decided == {"cat": True, "dog": False, "bird": None}
    none = {c.name: decide(c, truth) for c in read_claims("There are no birds. There are no dogs.", VOCABULARY)}
    assert none == {"bird": None, "dog": True}


def test_absent_comes_out_and_present_goes_in(tmp_path: Path) -> None:
    pairs = make(tmp_path, ["There is a cat and a dog.", "There is a cup."], omission_share=0)
    assert [(pair.chosen.text, pair.rejected.text) for pair in pairs] == [
        ("There is a cat and a cup.", "There is a cat and a dog.")
    ]
    (pair,) = pairs
    assert (pair.punished, pair.rewarded, pair.kind) == ({"dog"}, {"cup"}, "description")
    assert (pair.chosen.recall, pair.rejected.recall) == (1.0, 0.5)
    assert list(pair.about["added"]) == ["cup"] and list(pair.about["removed"]) == ["dog"]


def test_what_is_uncertain_stays_on_both_sides(tmp_path: Path) -> None:
    texts = ["There is a cat, a bird and a dog.", "There is a cup."]
    for pair in make(tmp_path, texts, omission_share=0):
        assert "bird" in pair.chosen.text and "bird" in pair.rejected.text
        assert "dog" not in pair.chosen.text and "bird" not in pair.punished | pair.rewarded
    # nothing but something uncertain is wrong with it: no pair, and it is never added either
    with pytest.raises(Quarantined, match="nothing_absent"):
        make(tmp_path, ["There is a cat and a bird."], omission_share=0)
    only_dog = {"cat": "present", "dog": "absent", "bird": "uncertain"}
    (pair,) = make(tmp_path, ["There is a cat and a dog."], only_dog, omission_share=0)  # type: ignore[arg-type]
    assert pair.chosen.text == "There is a cat."


def test_an_edit_that_takes_something_uncertain_along_is_no_pair(tmp_path: Path) -> None:
    """The grammar can't read the sentence, so it goes as a whole, and the bird with it."""
    texts = ["There is a cat. Beside the dog, which seems to watch a bird intently, nothing much happens at all."]
    with pytest.raises(Quarantined, match="uncertain_differs"):
        make(tmp_path, texts, omission_share=0, add_missed="none")


def test_omissions_leave_out_what_is_present(tmp_path: Path) -> None:
    pairs = make(tmp_path, ["There is a cat and a cup."])
    assert [pair.kind for pair in pairs] == ["omission"] and not pairs[0].free_length
    assert pairs[0].rewarded == {pairs[0].about["omitted"]} <= {"cat", "cup"} and not pairs[0].punished


def test_denied_objects_stay_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(Quarantined, match="nothing_absent"):
        make(tmp_path, ["There is a cat and no dog."], omission_share=0)


def test_questions_are_about_what_is_known(tmp_path: Path) -> None:
    asked = choose_questions(
        "i", frozenset({"cat", "cup"}), CoOccurrence([frozenset({"cat", "bird"})]), count=6,
        templates=["Is there {article} {object}?"], seed=0, known_absent=frozenset({"dog"}),
    )  # fmt: skip
    assert [(one.name, one.present) for one in asked if not one.present] == [("dog", False)]
    assert sum(one.present for one in asked) == 1  # as many as about absent ones
