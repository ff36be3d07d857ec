from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.temporal.metrics import TemporalQuestion, first_yes_no, is_right, read, tally


def pair(basic: str, hallucination: str, kind: str = "temporal") -> dict[str, Any]:
    return {
        "type": kind,
        "basic": {"video": "a.mp4", "question": "Does it run?", "answer": "yes", "predict": basic},
        "hallucination": {"video": "b.mp4", "question": "Does it fly?", "answer": "no", "predict": hallucination},
    }


def test_videohallucer_counts_pairs(tmp_path: Path) -> None:
    path = tmp_path / "temporal.json"
    rows = [
        pair("Yes, it does.", "No."),
        pair("Yes", "Yes, it flies."),
        pair("no", "No", "order"),
        pair("It runs.", "no", "order"),
    ]
    path.write_text(json.dumps(rows))
    found = score("videohallucer", ScoreRequest(path))
    assert (found.metrics["basic"], found.metrics["hallucination"], found.metrics["overall"]) == (50.0, 75.0, 25.0)
    assert found.metrics["yes_ratio"] == 37.5 and found.metrics["yes_difference"] == -12.5
    assert found.metrics["false_positive_ratio"] == pytest.approx(100 / 3)
    assert found.metrics["categories"]["order"]["overall"] == 0.0 and found.unparsed == 1
    kind, questions = read(path)
    counted = tally(kind, questions)
    assert counted.values["overall"] == 0.25 and sum(counted.outcomes.values()) == 1 and len(counted.outcomes) == 4
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(rows[:1]))
    (folder / "two.json").write_text(json.dumps(rows[1:]))
    assert score("videohallucer", ScoreRequest(folder)).metrics["overall"] == 25.0


def test_tempcompass_means_are_over_questions(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "1": {
            "action": [
                {"question": "What?", "answer": "A. running", "prediction": "A"},
                {"question": "What?", "answer": "A. running", "prediction": "B. flying"},
            ],
            "order": [{"question": "Is it?", "answer": "yes", "prediction": "Yes, it is"}],
        },
        "2": {
            "speed": [
                {"question": "What?", "answer": "C. fast", "prediction": "C) fast"},
                {"question": "What?", "answer": "C. fast", "prediction": "it is fast"},
                {"question": "What?", "answer": "C. fast"},
            ]
        },
    }
    path = tmp_path / "multi-choice.json"
    path.write_text(json.dumps(rows))
    found = score("tempcompass", ScoreRequest(path))
    assert found.metrics["accuracy"] == 50.0 and found.metrics["questions"] == 6
    assert found.metrics["categories"]["action"]["accuracy"] == 50.0
    assert found.metrics["categories"]["speed"]["accuracy"] == pytest.approx(100 / 3)
    assert found.unparsed == 1 and any("no prediction" in warning for warning in found.warnings)
    rated = {
        "1": {"action": [{"question": "q", "answer": "a", "prediction": "x", "rating": rating} for rating in (1, 0, 1)]}
    }
    path.write_text(json.dumps(rated))
    assert score("tempcompass", ScoreRequest(path)).metrics["accuracy"] == pytest.approx(200 / 3)


def test_answers_beside_questions_and_mistakes(tmp_path: Path) -> None:
    questions, answers = tmp_path / "q.json", tmp_path / "a.json"
    bare = pair("", "")
    for side in ("basic", "hallucination"):
        del bare[side]["predict"]
    questions.write_text(json.dumps([bare, bare]))
    answers.write_text(json.dumps([pair("yes", "no")]))
    found = score("videohallucer", ScoreRequest(answers, questions=questions))
    assert found.metrics["overall"] == 50.0 and "2 questions" in found.warnings[0]
    with pytest.raises(UserError, match="not of tempcompass"):
        score("tempcompass", ScoreRequest(answers))
    for text, says in (
        ("{", "not valid JSON"),
        ("3", "neither"),
        ('[{"basic": {}}]', "holds `basic`"),
        ('{"v": 1}', "map of dimensions"),
    ):
        answers.write_text(text)
        with pytest.raises(UserError, match=says):
            read(answers)


def test_rules() -> None:
    assert first_yes_no("Not sure, but yes") == "yes" and first_yes_no("nothing") is None
    question = TemporalQuestion("1", "v", "?", "no", "c", "1", "basic", "Well, no.")
    assert is_right("videohallucer", question) is True
    assert is_right("tempcompass", question) is None, "its rule looks at the beginning only"
