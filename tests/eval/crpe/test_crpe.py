"""CRPE: the script's golden sample, samples by the order of the questions, and a model that is really asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.crpe.metrics import read_letter, read_questions, score
from mmpo.eval.harness import evaluate
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import save_tiny_llava, tiny_image


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def rows(category: str, samples: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question_id": start + n, "image": f"{n % 3}.png", "text": f"Which one? A. a B. b C. c D. d ({n})",
         "category": category, "correct_option": "ABCD"[n % 4]}
        for n in range(4 * samples)
    ]  # fmt: skip


def test_a_full_stop_is_wrong_and_a_sample_needs_all_four(tmp_path: Path) -> None:
    questions = read_questions([written(tmp_path / "q.jsonl", rows("subject", 2))])
    texts = ["A", "B", "C", "D", "A.", "B", "C", "D"]
    tallies, unread = score(questions, texts)
    assert tallies["subject"].values == {"accuracy": 0.5, "single_accuracy": 0.875} and unread == 1
    tallies, unread = score(questions, texts, "letter")
    assert tallies["subject"].values == {"accuracy": 1.0, "single_accuracy": 1.0} and unread == 0


@pytest.mark.parametrize(
    ("text", "official", "letter"),
    [("A", "A", "A"), ("A.", None, "A"), (" A", None, "A"), ("(B) b", None, "B"), ("", None, None), ("a", "a", None),
     ("The answer is C", None, "C"), ("maybe", None, None)],
)  # fmt: skip
def test_letters(text: str, official: str | None, letter: str | None) -> None:
    assert (read_letter(text, "official"), read_letter(text, "letter")) == (official, letter)


def test_the_overall_number_is_the_plain_mean_of_relations(tmp_path: Path) -> None:
    everything = [*rows("subject", 2), *rows("predicate", 1, 100), *rows("object", 1, 200), *rows("exist", 1, 300)]
    path = written(tmp_path / "q.jsonl", everything)
    given = [{"question_id": one["question_id"], "text": one["correct_option"]} for one in everything]
    given[1]["text"] = "A"  # one of two samples of `subject`
    given[9]["text"] = "A"  # the one of `predicate`
    shuffled = given[::-1]  # what belongs together follows the questions, not the answers
    found = score_file("crpe", ScoreRequest(written(tmp_path / "a.jsonl", shuffled), path)).metrics
    assert {name: one["accuracy"] for name, one in found.items() if name != "relations"} == {
        "subject": 0.5, "predicate": 0.0, "object": 1.0, "exist": 1.0,
    }  # fmt: skip
    assert found["relations"]["overall"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"correct_option": "E"}, "q.jsonl:2: `correct_option`"), ({"question_id": 0}, "q.jsonl:2: `question_id`"),
     ({"category": "object"}, "3 questions of the category 'subject'")],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    questions = rows("subject", 1)
    questions[1] |= change
    with pytest.raises(UserError, match=message):
        read_questions([written(tmp_path / "q.jsonl", questions)])


def test_a_model_is_asked(tmp_path: Path) -> None:
    for number in range(3):
        tiny_image(number).save(tmp_path / f"{number}.png")
    path = written(tmp_path / "q.jsonl", [*rows("subject", 1), *rows("predicate", 1, 100), *rows("object", 1, 200)])
    settings = EvalSettings.model_validate(
        {"model": str(save_tiny_llava(tmp_path / "model")), "benchmarks": ["crpe"],
         "crpe": {"questions": [str(path)], "max_new_tokens": 1}}
    )  # fmt: skip
    evaluate(settings, tmp_path / "run")
    card = json.loads((tmp_path / "run/scorecard.json").read_text())
    assert {(row["split"], row["metric"]) for row in card["rows"]} >= {
        ("subject", "accuracy"),
        ("relations", "overall"),
    }
    lines = (tmp_path / "run/crpe/answers_after.jsonl").read_text().splitlines()
    assert [json.loads(line)["question_id"] for line in lines[:5]] == ["0", "1", "2", "3", "100"]
