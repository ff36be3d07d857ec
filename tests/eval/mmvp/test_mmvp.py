"""MMVP: the readers' golden values, pairs, a hand-written question file, and a model that is really asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.mmvp.metrics import READERS, read_questions, score
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import save_tiny_llava, tiny_image

OPTIONS = ("Open", "Closed.")


@pytest.mark.parametrize(
    ("text", "lmms_eval", "internvl"),
    [("A", "A", "A"), ("(b)", "B", None), ("b", "B", None), ("Open", None, "A"), ("Closed.", None, "B"),
     ("The answer is A", "A", None), ("I think a", "A", None), ("(a) Open", "A", "A"), ("Answer: B", "B", "A"),
     ("Both", "B", "B"), ("", None, None), ("option (b), not a", "B", None), ("It is A) Open.", "A", "A"),
     ("extra", "A", None), ("A. Open", "A", "A"), (" B\n", "B", "B")],
)  # fmt: skip
def test_letters_are_read(text: str, lmms_eval: str | None, internvl: str | None) -> None:
    assert READERS["lmms-eval"](text, OPTIONS) == lmms_eval
    assert READERS["internvl"](text, OPTIONS) == internvl


def csv(path: Path, rows: dict[int, str], index: str = "lndex") -> Path:
    lines = [f'{number},"Wings, open or closed?",(a) Open (b) Closed,{answer}' for number, answer in rows.items()]
    path.write_text("\n".join([f"{index},Question,Options,Correct Answer", *lines]) + "\n")
    return path


def test_questions_and_gold(tmp_path: Path) -> None:
    path = csv(tmp_path / "Questions.csv", {1: "(a)", 2: "(b)", 99: "(a)", 100: "(b)"})
    questions = read_questions(path)
    assert [question.answer for question in questions] == ["A", "B", "B", "A"]
    assert [question.answer for question in read_questions(path, "published")] == ["A", "B", "A", "B"]
    assert [question.pair for question in questions] == ["pair 1", "pair 1", "pair 50", "pair 50"]
    assert questions[0].prompt == (
        "Wings, open or closed?\nA. Open\nB. Closed\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [({1: "(a)"}, "question 1 has no partner"), ({1: "(a)", 2: "c"}, r":3: needs `Options`"), ({0: "(a)"}, "`Index`"),
     ({}, "no rows")],
)  # fmt: skip
def test_mistakes_name_the_row(tmp_path: Path, rows: dict[int, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_questions(csv(tmp_path / "Questions.csv", rows, "Index"))


def test_a_pair_needs_both(tmp_path: Path) -> None:
    questions = read_questions(csv(tmp_path / "q.csv", {1: "(a)", 2: "(b)", 3: "(b)", 4: "(a)"}))
    tally, unread = score(questions, ["A", "B", "B", "neither"], "lmms-eval")
    assert tally.values == {"pair_accuracy": 0.5, "accuracy": 0.75} and unread == 1
    tally, _ = score(questions[:3], ["A", "B", "B"], "lmms-eval")
    assert tally.values == {"pair_accuracy": 1, "accuracy": 1}


def test_answers_made_elsewhere(tmp_path: Path) -> None:
    questions = csv(tmp_path / "Questions.csv", {99: "(a)", 100: "(b)", 1: "(a)", 2: "(b)"})
    answers = tmp_path / "answers.jsonl"
    rows = {99: "(a)", 100: "B", 1: "A", 2: "Closed", 301: "A"}
    answers.write_text("".join(json.dumps({"question_id": n, "response": text}) + "\n" for n, text in rows.items()))

    def scored(parser: str, gold: str) -> dict[str, object]:
        found = score_file("mmvp", ScoreRequest(answers, questions, parser=parser, options={"gold": gold}))
        assert (
            found.quarantined == {"the question is not in the file": 1}
            and found.intervals.keys() <= found.metrics.keys()
        )
        return {**found.metrics, "unparsed": found.unparsed}

    assert scored("lmms-eval", "published") == {"pair_accuracy": 0.5, "accuracy": 0.75, "unparsed": 1}
    assert scored("lmms-eval", "corrected") == {"pair_accuracy": 0.0, "accuracy": 0.25, "unparsed": 1}
    assert scored("internvl", "published") == {"pair_accuracy": 0.5, "accuracy": 0.75, "unparsed": 1}
    with pytest.raises(UserError, match="gold must be"):
        scored("internvl", "right")


def test_a_model_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "MMVP Images"
    folder.mkdir()
    for number in range(1, 7):
        tiny_image(number).save(folder / f"{number}.jpg")
    path = csv(tmp_path / "Questions.csv", {number: "(a)" if number % 2 else "(b)" for number in range(1, 7)})
    settings = EvalSettings.model_validate(
        {"model": str(save_tiny_llava(tmp_path / "model")), "benchmarks": ["mmvp"], "limit": 5,
         "mmvp": {"questions": str(path), "max_new_tokens": 2}}
    )  # fmt: skip
    evaluate(settings, tmp_path / "run")
    given = [json.loads(line) for line in (tmp_path / "run/mmvp/answers_after.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in given] == [1, 2, 3, 4] and given[0]["answer"] == "(a)"
    card = json.loads((tmp_path / "run/scorecard.json").read_text())
    assert {row["metric"] for row in card["rows"]} == {"pair_accuracy", "accuracy"}
