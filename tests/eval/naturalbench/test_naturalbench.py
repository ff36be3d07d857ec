"""NaturalBench: golden groups, rows read and refused, and a model that is really asked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.naturalbench.metrics import read_questions, score
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import save_tiny_llava, tiny_image


def row(index: int, kind: str = "yes_no", **changes: Any) -> dict[str, Any]:
    first, second = ("Yes", "No") if kind == "yes_no" else ("A", "B")
    return {
        "Index": index, "Image_0": "0.png", "Image_1": "1.png",
        "Question_0": "Is it day?", "Question_1": "Is it night?",
        "Image_0_Question_0": first, "Image_1_Question_0": second, "Image_0_Question_1": second,
        "Image_1_Question_1": first, "Question_Type": kind, "Source": "x", **changes,
    }  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.mark.parametrize(
    ("answers", "expected"),
    [((1, 0, 0, 1), (1, 1, 1, 1)), ((1, 1, 1, 1), (0, 0, 0.5, 0)), ((0, 0, 0, 0), (0, 0, 0.5, 0)),
     ((-1, -1, -1, -1), (0, 0, 0, 0)), ((1, 1, 0, 1), (0.5, 0.5, 0.75, 0)), ((1, 1, 0, 0), (0, 0.5, 0.5, 0)),
     ((1, 0, 1, 0), (0.5, 0, 0.5, 0))],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["yes_no", "multiple_choice"])
def test_groups(tmp_path: Path, kind: str, answers: tuple[int, ...], expected: tuple[float, ...]) -> None:
    questions = read_questions([written(tmp_path / "rows.jsonl", [row(7, kind)])])
    assert [question.id for question in questions] == ["7_q0_i0", "7_q0_i1", "7_q1_i0", "7_q1_i1"]
    words = {1: "Yes." if kind == "yes_no" else "(a)", 0: "no" if kind == "yes_no" else "B", -1: "neither"}
    tally, unread = score(questions, [words[one] for one in answers])
    found = tally.values
    names = ("question_accuracy", "image_accuracy", "accuracy", "group_accuracy")
    assert tuple(found[name] for name in names) == expected
    assert unread == answers.count(-1)


def test_the_order_of_answers_changes_nothing_and_half_rows_are_left_out(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", [row(0), row(1), row(2)])
    questions = read_questions([rows])
    right = {one.id: "yes" if one.question == one.picture else "no" for one in questions}
    answers = [{"id": name, "answer": text} for name, text in reversed(right.items()) if name != "2_q1_i1"]
    found = score_file("naturalbench", ScoreRequest(written(tmp_path / "a.jsonl", answers), rows))
    assert found.metrics["group_accuracy"] == 1.0 and found.intervals["group_accuracy"][0] < 1
    assert found.warnings == ["1 of 12 questions have no answer"]
    tally, _ = score(questions[:-1], [right[one.id] for one in questions[:-1]])
    assert tally.images == ("0", "1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"Image_0_Question_1": "Yes"}, "question 1 about picture 0 is 'yes'"),
     ({"Question_Type": "open"}, "must be yes_no"), ({"Index": ""}, "`Index` must be there"),
     ({"Question_0": 3}, "`Question_0` must be text")],
)  # fmt: skip
def test_wrong_rows_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_questions([written(tmp_path / "rows.jsonl", [row(0), row(1, **changes)])])
    assert "rows.jsonl:2" in caught.value.message


def test_a_model_is_asked_about_pictures_inside_parquet(tmp_path: Path) -> None:
    def png(number: int) -> dict[str, Any]:
        data = io.BytesIO()
        tiny_image(number).save(data, "PNG")
        return {"bytes": data.getvalue(), "path": None}

    rows = [row(n, Image_0=png(2 * n), Image_1=png(2 * n + 1)) for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    settings = EvalSettings.model_validate(
        {"model": str(save_tiny_llava(tmp_path / "model")), "benchmarks": ["naturalbench"], "limit": 9,
         "naturalbench": {"questions": [str(tmp_path / "rows.parquet")], "max_new_tokens": 2}}
    )  # fmt: skip
    evaluate(settings, tmp_path / "run")
    given = [json.loads(line) for line in (tmp_path / "run/naturalbench/answers_after.jsonl").read_text().splitlines()]
    assert len(given) == 8 and given[5]["id"] == "1_q0_i1"
    asked = [json.loads(line) for line in (tmp_path / "run/answers.jsonl").read_text().splitlines()]
    assert {one["prompt"] for one in asked} == {
        "Is it day?Please answer Yes or No.", "Is it night?Please answer Yes or No.",
    }  # fmt: skip
    assert len({one["image"] for one in asked}) == 4
