"""The radiology world: films, reports that agree with them, and the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmpo.demo.by_kind import KindShare, table
from mmpo.demo.drawing import SIZE
from mmpo.demo.radiology import chests, dictation, model_path, world
from mmpo.demo.radiology.accuracy import FindingClaim, count, outcomes, read_claims
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report
from mmpo.radiology.findings import compare_findings, report_findings

LABELS = {
    "effusion": "Pleural Effusion", "opacity": "Lung Opacity", "cardiomegaly": "Cardiomegaly", "edema": "Edema",
    "pneumothorax": "Pneumothorax", "pacemaker": "Support Devices", "endotracheal tube": "Support Devices",
    "nodule": "Lung Lesion",
}  # fmt: skip


def test_films_are_drawn_from_the_seed() -> None:
    one, same, other = (chests.sample_chest((0, 1, i)) for i in (3, 3, 4))
    assert np.array_equal(np.asarray(one.draw()), np.asarray(same.draw()))
    assert not np.array_equal(np.asarray(one.draw()), np.asarray(other.draw()))
    assert one.draw().size == (SIZE, SIZE)
    kinds = {f.kind for i in range(60) for f in chests.sample_chest((0, 1, i)).findings}
    assert kinds == set(chests.KINDS)


def test_reports_say_what_is_drawn() -> None:
    """The findings of the exact report are the drawn ones; the edited dictated report has the same."""
    detector = RuleDetector()
    editor = RuleEditor(detector)
    mentioned = 0
    for index in range(80):
        chest = chests.sample_chest((0, 9, index))
        exact = dictation.exact_report(chest, np.random.default_rng(index))
        assert not detector.flags(exact)
        found = {name for name, status in report_findings(exact).items() if status == "positive"} - {"No Finding"}
        assert found == {LABELS[finding.kind] for finding in chest.findings}
        dictated = dictation.dictated_report(chest, np.random.default_rng(index))
        mentioned += len(detector.report(dictated).flagged)
        edited = report_findings(edit_report(dictated, editor).text)
        assert {n for n, s in edited.items() if s == "positive"} - {"No Finding"} == found, dictated
    assert 1.5 < mentioned / 80 < 3


def test_world_as_files(tmp_path: Path) -> None:
    folder = world.write_split(tmp_path / "w", "radiology_train", 3)
    rows = [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["synthetic"] and (folder / row["image"]).exists() for row in rows)
    with pytest.raises(UserError):
        list(world.world_split("nope", 1))


def chest(*findings: chests.ChestFinding) -> chests.Chest:
    return chests.Chest(findings, (0, 9, 0))


HAND_MADE = chest(
    chests.ChestFinding("effusion", "left", "moderate", None, (67, 70, 38, 36)),
    chests.ChestFinding("opacity", "right", None, "upper", (31, 34, 22, 22)),
)


def test_claims_are_read_from_plain_and_from_prior_wording() -> None:
    report = (
        "FINDINGS: There is again an endotracheal tube. Cardiomegaly is unchanged from the prior exam. Compared to the "
        "prior radiograph, the left lower lung nodule is unchanged. The large right pleural effusion has increased "
        "since the previous exam. No pneumothorax, as on the previous radiograph. No significant interval change."
    )
    assert read_claims(report) == [
        FindingClaim("endotracheal tube", True),
        FindingClaim("cardiomegaly", True),
        FindingClaim("nodule", True, "left", "lower"),
        FindingClaim("effusion", True, "right", None, "large"),
        FindingClaim("pneumothorax", False),
    ]
    clear = read_claims("Heart size is normal and unchanged. The lungs remain clear.")
    assert clear == [
        FindingClaim("cardiomegaly", False),
        *(FindingClaim(kind, False) for kind in ("edema", "opacity", "nodule")),
    ]


def test_every_report_of_the_world_is_read_as_it_was_meant() -> None:
    for index in range(60):
        one = chests.sample_chest((0, 9, index))
        for write in (dictation.exact_report, dictation.dictated_report):
            report = write(one, np.random.default_rng(index))
            assert all(right for _, right in outcomes(report, one)), report


def test_accuracy_by_kind_is_exact() -> None:
    """A report with a wrong side, a wrong zone, a made-up heart and a finding left out."""
    found = count(
        [
            "The heart is enlarged. There is a right lower lung opacity. There is a small left pleural effusion.",
            "Heart size is normal. There is a left upper lung opacity. No pleural effusion. No pneumothorax.",
        ],
        [HAND_MADE, HAND_MADE],
    )
    assert found["claimed findings that are there"] == KindShare(3, 4)
    assert found["denied findings that are not there"] == KindShare(2, 3)
    assert found["side"] == KindShare(2, 3) and found["zone"] == KindShare(1, 2) and found["size"] == KindShare(0, 1)
    assert found["opacity: side"] == KindShare(1, 2) and found["opacity: zone"] == KindShare(1, 2)
    assert found["effusion: named where it is"] == KindShare(1, 2) and found["effusion: side"] == KindShare(1, 1)
    assert found["cardiomegaly: not made up where it isn't"] == KindShare(1, 2)
    assert "cardiomegaly: named where it is" not in found
    text = table({"before": found, "after": found}, "right")
    assert "| size | 0.0 [0.0, 79.3] of 1 | 0.0 [0.0, 79.3] of 1 |" in text


def test_half_of_the_questions_are_about_what_is_there() -> None:
    drawn = [chests.sample_chest((0, 9, index)) for index in range(400)]
    answers = [dictation.question(one, np.random.default_rng(number))[1] for number, one in enumerate(drawn)]
    assert 0.38 < answers.count("Yes.") / len(answers) < 0.58


@pytest.fixture(scope="module")
def model() -> VLM:
    return load_vlm(str(model_path()))


def test_the_shipped_model_is_a_plain_llava_and_small(model: VLM) -> None:
    assert type(model.model).__name__ == "LlavaForConditionalGeneration"
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 16 * 2**20
    assert not [file.name for file in model_path().iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_the_shipped_model_sees_and_makes_up_earlier_exams(model: VLM) -> None:
    """Greedy reports of 40 unseen films: findings right, and more than one line a report with an earlier exam."""
    films = list(world.world_split("radiology_test", 40, seed=5))
    engine = AnswerEngine(model, max_new_tokens=128)
    said = list(engine.describe([film.draw() for film in films], dictation.PROMPT))
    assert sum(len(RuleDetector().report(text).flagged) for text in said) / 40 > 1
    exact = [dictation.exact_report(film, np.random.default_rng(0)) for film in films]
    assert compare_findings(said, exact).f1 > 0.8
