"""Hallucinated earlier exams: counts, reduction, agreement, text and clinical metrics, scorer, judge over HTTP."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmpo.chat import open_chat
from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.protocol import Response
from mmpo.eval.radiology import metrics as radiology
from mmpo.eval.radiology import text as radiology_text
from mmpo.eval.radiology.clinical import CHEXBERT, RadcliqFeatures, chexbert_f1, radcliq, radgraph_f1
from mmpo.eval.radiology.settings import RadiologyEvalSettings
from mmpo.eval.radiology.task import Radiology
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.task import Context
from mmpo.packages import Package
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.judge import JudgeDetector
from mmpo.radiology.reports import RadiologyReport
from tests.chat.server import ChatServer
from tests.data_builders.radiology.test_radiology import answer
from tests.eval.evaluating import settings

ANSWERS = {
    "a": "Heart size is unchanged. Small left effusion.",
    "b": "Lungs are clear.",
    "c": "Stable edema. No change.",
}
REFERENCES = {"a": "Stable small left effusion.", "b": "Lungs are clear.", "c": "Mild edema."}


def test_counts() -> None:
    found = radiology.score_reports(ANSWERS, REFERENCES)
    values = radiology.tally(found).values
    assert values["prior_lines_per_report"] == 1.0 and values["reports_with_priors"] == pytest.approx(2 / 3)
    assert values["prior_line_share"] == 3 / 5 and values["words"] == pytest.approx((7 + 3 + 4) / 3)
    assert values["finding_F1"] == 1.0
    assert found[0].edited_reference == "Small left effusion."
    assert "finding_F1" not in radiology.tally(radiology.score_reports(ANSWERS)).values


def test_reduction() -> None:
    before = radiology.score_reports({str(i): "Heart is stable. Effusion is unchanged." for i in range(20)})
    after = radiology.score_reports({str(i): "Heart is stable." if i % 4 == 0 else "Effusion." for i in range(20)})
    found = radiology.reduction(before, after)
    assert found["reduction"] == 8 and found["reduction_low"] < 8 < found["reduction_high"]  # type: ignore[operator]
    assert radiology.reduction(before, after) == found
    none = radiology.reduction(before, radiology.score_reports({str(i): "Effusion." for i in range(20)}))
    assert none["reduction"] is None


def test_bleu_adds_up_like_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = ["There is a small left pleural effusion.", "The lungs are clear and normal."]
    references = ["There is a small right pleural effusion.", "The lungs are clear."]
    counts = np.array([radiology_text.bleu_counts(*pair) for pair in zip(answers, references, strict=True)])
    whole = sacrebleu.corpus_bleu(answers, [references], lowercase=True).score / 100
    assert float(radiology_text.bleu(counts.sum(0))) == pytest.approx(whole, abs=1e-6)
    assert float(radiology_text.bleu(counts[:0].sum(0))) == 0


def test_text_metrics() -> None:
    assert radiology_text.rouge("a b c", "a b c")["rougeL"] == 1
    assert radiology_text.temporal_f1("clear", "normal") == 1
    assert radiology_text.temporal_f1("stable", "normal") < 1e-6
    assert radiology_text.temporal_f1("stable new", "stable") == pytest.approx(2 / 3)


def test_radcliq() -> None:
    assert radcliq(RadcliqFeatures(1, 1, 1, 1)) == pytest.approx(-1.44069, abs=1e-4)
    assert radcliq(RadcliqFeatures(1, 1, 1, 1), "v0") == pytest.approx(-0.24213, abs=1e-4)
    assert radcliq(RadcliqFeatures(0.273, 0.43, 0.315, 0.193)) == pytest.approx(1.088, abs=0.002)


def test_radcliq_of_published_rows(published_data: Path) -> None:
    rows = 0
    for path in published_data.glob("result_*.csv"):
        for row in csv.DictReader(path.open()):
            features = RadcliqFeatures(*(float(row[key]) for key in ("RadGraph", "BertScore", "SembScore", "BLEU")))
            assert radcliq(features) == pytest.approx(float(row["RadCliQ-v1"]), abs=0.002)
            assert radcliq(features, "v0") == pytest.approx(float(row["RadCliQ-v0"]), abs=0.003)
            rows += 1
    assert rows == 50


def test_radgraph_levels() -> None:
    one = {
        "1": {"tokens": "Effusion", "label": "OBS-DP", "relations": [["located_at", "2"]]},
        "2": {"tokens": "left", "label": "ANAT-DP", "relations": []},
    }
    other = {**one, "1": {**one["1"], "relations": []}}
    assert [radgraph_f1(one, one, level) for level in ("simple", "partial", "complete", "combined")] == [1, 1, 1, 1]
    assert [radgraph_f1(one, other, level) for level in ("simple", "partial", "combined")] == [1.0, 0.5, 0.5]
    assert radgraph_f1({}, one) == 0


def test_chexbert_labels() -> None:
    def row(**labels: int) -> list[int]:
        return [labels.get(name.replace(" ", "_"), 0) for name in CHEXBERT]

    references = [row(Edema=1, Fracture=1), row(Cardiomegaly=3)]
    assert chexbert_f1(references, references)["micro_14"] == 1
    found = chexbert_f1([row(Edema=1), row(Cardiomegaly=1, Edema=2)], references)
    assert found["micro_5"] == 1 and found["macro_5"] == 2 / 5
    assert found["micro_14"] == pytest.approx(4 / 5) and found["macro_14"] == pytest.approx(2 / 14)
    assert chexbert_f1([row(), row(Cardiomegaly=1)], references, "negative")["micro_5"] == 0
    with pytest.raises(UserError, match="14"):
        chexbert_f1([[1]], [[1]])


def test_metrics_of_models_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = write(tmp_path / "a.jsonl", ANSWERS)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="references"):
        patch.setattr(Package, "here", True)
        score("radiology", ScoreRequest(answers, options={"radgraph": "radgraph-xl"}))
    references = write(tmp_path / "r.jsonl", REFERENCES)
    for option, package in (("radgraph", "radgraph"), ("bertscore", "bert-score")):
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            with pytest.raises(UserError, match=f"package {package}"):
                score("radiology", ScoreRequest(answers, references, options={option: "x"}))


def write(path: Path, rows: dict[str, str], **more: object) -> Path:
    path.write_text("".join(json.dumps({"id": id, "text": text, **more}) + "\n" for id, text in rows.items()))
    return path


def test_scorer(tmp_path: Path) -> None:
    answers, references = write(tmp_path / "a.jsonl", ANSWERS), write(tmp_path / "r.jsonl", REFERENCES)
    base = write(tmp_path / "b.jsonl", {id: text + " Unchanged." for id, text in ANSWERS.items()})
    found = score("radiology", ScoreRequest(answers, references, options={"baseline": str(base)}))
    assert found.metrics["prior_lines_per_report"] == 1 and found.metrics["reduction"] == 2
    assert found.intervals["prior_lines_per_report"][0] <= 1 <= found.intervals["prior_lines_per_report"][1]
    fewer = write(tmp_path / "f.jsonl", {"a": REFERENCES["a"]})
    with pytest.raises(UserError, match="2 answers have no reference"):
        score("radiology", ScoreRequest(answers, fewer))
    part = score("radiology", ScoreRequest(answers, fewer, options={"allow_missing": "yes"}))
    assert part.scored == 1 and part.quarantined == {"no_reference": 2}
    with answers.open("a") as file:
        file.write('{"id": "p", "text": "Stable.", "has_prior": true}\n')
    assert score("radiology", ScoreRequest(answers, references)).quarantined == {"has_prior": 1}


def test_credentialed_answers_go_to_no_remote_judge(tmp_path: Path) -> None:
    answers, references = write(tmp_path / "a.jsonl", ANSWERS), write(tmp_path / "r.jsonl", REFERENCES)
    marked = [
        ScoreRequest(write(tmp_path / "marked.jsonl", ANSWERS, credentialed="TRUE"), references),
        ScoreRequest(answers, write(tmp_path / "marked_references.jsonl", REFERENCES, credentialed=True)),
    ]
    with ChatServer(answer=answer) as server:
        settings = server.settings()
        with open_chat(settings) as chat:  # on this machine
            for request in marked:
                assert score("radiology", replace(request, judge=chat)).metrics["judge"]["lines"] > 0
        asked = len(server.requests)
        with open_chat(settings.model_copy(update={"base_url": "http://example.org/v1"})) as chat:
            for request in marked:
                with pytest.raises(UserError, match="not on this machine"):
                    score("radiology", replace(request, judge=chat))
        assert len(server.requests) == asked


def test_judge_and_agreement() -> None:
    answers = {"a": "Heart size is unchanged. Small left effusion is again noted. Lungs are stable."}
    found = radiology.score_reports(answers)
    with ChatServer(answer=answer) as server, open_chat(server.settings()) as chat:
        judged = radiology.judge_reports(answers, JudgeDetector(chat))
    assert judged.flags["a"] == [True, True, False]
    agreed = radiology.agreement(found, judged)
    assert agreed["lines"] == 3 and agreed["agreement"] == pytest.approx(2 / 3) and agreed["kappa"] == 0
    with ChatServer(answer="no idea") as server, open_chat(server.settings()) as chat:
        judged = radiology.judge_reports(answers, JudgeDetector(chat))
    assert judged.failed == {"judge_unreadable": 1} and radiology.agreement(found, judged)["kappa"] is None


def test_a_judge_that_fails_stops_the_benchmark_and_the_same_reports_are_judged_once() -> None:
    given = [(RadiologyReport(id, "", {}), Response(text, False)) for id, text in {**ANSWERS, "z": "Zebra."}.items()]
    task = Radiology.on([report for report, _ in given], RadiologyEvalSettings(judged_by="both"))
    task.detector, broken = RuleDetector(), True
    with ChatServer(answer, lambda prompt, attempt: "500" if broken and "Zebra" in prompt else None) as server:
        task.context = Context(judge=server.settings(retries=0))
        with pytest.raises(UserError, match="radiology: 1 of 4 questions to the judge got no reply"):
            task.parts(given)
        broken = False
        assert [(part.split, part.questions) for part in task.parts(given)] == [(None, 4), ("judge", 4)]
        asked = len(server.requests)
        task.parts(given)
        assert len(server.requests) == asked


def test_as_a_benchmark_with_a_judge(world: Path, tmp_path: Path) -> None:
    """Films of every kind of trouble are counted; lines are judged by rules and by a model, with the agreement."""
    rows = [
        {"id": "a", "report": "fInDiNgS: Stable small effusion.", "image": "1.png"},
        {"id": "b", "report": "Lungs are clear.", "image": "2.png"},
        {"id": "given", "report": "Stable.", "image": "3.png", "has_prior": True},
        {"id": "film", "report": "Lungs are clear."},
        {"id": "empty", "report": "FINDINGS:\nIMPRESSION: Normal.", "image": "4.png"},
        {"id": "none", "report": " ", "image": "5.png"},
    ]
    reports = tmp_path / "reports.jsonl"
    reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(answer=lambda prompt: answer(prompt).replace('"none"', '"all"', 1)) as server:
        asked = settings(
            world,
            benchmarks=["radiology"],
            radiology={
                "reports": str(reports), "images": str(world / "images"), "judged_by": "both", "max_new_tokens": 8
            },
            judge=server.settings().model_dump(),
        )  # fmt: skip
        card = evaluate(asked, tmp_path / "run")
    found = {(row.split, row.metric): row for row in card.rows}
    assert found[("judge", "reports_with_priors")].after.value == 1 and found[("judge", "words")].before is not None
    conventions = " ".join(card.conventions)
    assert "left out 1 empty_report, 1 has_prior, 1 no_image, 1 no_section" in conventions
    assert "Cohen's kappa" in conventions and "not CheXpert's labeller" in conventions
    written = (tmp_path / "run" / "radiology" / "reports_after.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in written] == ["a", "b"]
    remote = {"backend": "server", "model": "m", "base_url": "https://api.example.org/v1"}
    rows[0]["credentialed"] = True
    reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="credentialed"):
        evaluate(asked.model_copy(update={"judge": type(asked.judge).model_validate(remote)}), tmp_path / "remote")
