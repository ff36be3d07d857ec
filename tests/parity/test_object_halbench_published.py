"""Object HalBench's refined synonyms, on the published table and released captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.eval.chair import metrics as chair
from mmpo.eval.object_halbench.metrics import HalbenchAnswer, answer_reader, named_in_words, score
from mmpo.text.vocabulary import ObjectVocabulary

REFINED = "RLHF-V_RLHF-V/eval/data/synonyms_refine.txt"


@pytest.fixture
def refined(published_data: Path) -> ObjectVocabulary:
    return ObjectVocabulary.from_file(published_data / REFINED)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a motor bike", ["motorcycle"]),  # CHAIR's own table loses it to a leading space
        ("a coffee table and a remote control", ["dining table", "remote"]),
        ("his brother and a pedestrian", ["person", "person"]),
        ("a dining table", ["dining table"]),
        ("men and women", ["person"]),
        ("the seat of the toilet", ["toilet"]),
        ("a train track", []),
        ("a sports ball", ["sports ball"]),
    ],
)
def test_refined_table(refined: ObjectVocabulary, text: str, names: list[str]) -> None:
    (reading,) = answer_reader(refined).read([text])
    assert [mention.name for mention in reading.mentions] == names


def test_released_captions_without_the_judge(published_data: Path, refined: ObjectVocabulary) -> None:
    """The same captions and objects as CHAIR's with noun lemmas (44.8 / 12.7), under the refined table."""
    captions = chair.read_captions(published_data / "shikiw_OPERA/log/chair_eval_results/llava-1.5/greedy.jsonl")
    truth = chair.read_ground_truth(published_data / "derived/coco2014_chair_gt_objects.json")
    answers = [HalbenchAnswer(image, text, "", "") for image, text in captions.items()]
    rows, tally = score(answers, named_in_words(answers, answer_reader(refined)), truth)
    assert 100 * tally.values["CHAIRs"] == pytest.approx(44.8, abs=0.3)
    assert 100 * tally.values["CHAIRi"] == pytest.approx(12.7, abs=0.2)
    with_objects = sum(bool(row.named) for row in rows)
    assert tally.values["CHAIRs_refine"] == pytest.approx(sum(bool(row.hallucinated) for row in rows) / with_objects)
    assert tally.values["correct_rate"] == pytest.approx(1 - tally.values["CHAIRs_refine"])
