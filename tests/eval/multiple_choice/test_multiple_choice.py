"""Published multi-image questions: hand-written twins of each format, read, scored and asked."""

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
from mmpo.eval.multiple_choice.metrics import by_category, is_right, read_choices, read_option, read_truth, score
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import save_tiny_llava, tiny_image

OPTIONS = ("a red ball", "a ball", "no")


@pytest.mark.parametrize(
    ("text", "option"),
    [("B", 1), ("(C)", 2), ("B. a ball", 1), ("The answer is A", 0), ("Option: (B)", 1), ("A red ball", 0),
     ("It is a ball.", 1), ("I see a red ball there", 0), ("No, it isn't", 2), ("D", None), ("Apples", None),
     ("", None), ("a ball, no", None)],
)  # fmt: skip
def test_options_are_read(text: str, option: int | None) -> None:
    assert read_option(text, OPTIONS) == option


def test_truth_is_read() -> None:
    assert [read_truth(text) for text in ("True.", "No, false", "It is not", "Yes", "maybe")] == [
        "true", "false", "false", "true", None,
    ]  # fmt: skip


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_nlvr2(tmp_path: Path) -> None:
    rows = [
        {"identifier": f"dev-850-{pair}-{sentence}", "sentence": f"There are {sentence} dogs.", "label": label}
        for pair, sentence, label in ((0, 0, "True"), (1, 0, "False"), (0, 1, "True"))
    ]
    choices = read_choices("nlvr2", lines(tmp_path / "dev.json", rows))
    assert choices[1].images == ("dev-850-1-img0.png", "dev-850-1-img1.png")
    assert choices[0].prompt.count("<image>") == 2
    tally, unread = score(choices, ["True", "true", "Yes."])
    assert tally.values == {"accuracy": pytest.approx(2 / 3), "consistency": 0.5} and unread == 0
    with pytest.raises(UserError, match="label"):
        read_choices("nlvr2", lines(tmp_path / "bad.json", [{"identifier": "a-b-c-d", "sentence": "x"}]))


def test_blink_rows_and_parquet(tmp_path: Path) -> None:
    rows = [
        {"idx": f"val_{task}_{n}", "sub_task": task, "question": "Which?", "choices": ["left", "right"],
         "answer": answer, "image_1": "1.png", "image_2": "2.png" if n else None, "image_3": None, "image_4": None}
        for task, n, answer in (("Counting", 0, "(A)"), ("Counting", 1, "(B)"), ("Jigsaw", 0, "(B)"))
    ]  # fmt: skip
    choices = read_choices("blink", lines(tmp_path / "blink.jsonl", rows))
    assert [len(choice.images) for choice in choices] == [1, 2, 1]
    assert choices[1].prompt == "<image><image>\nWhich?\n(A) left\n(B) right"
    texts = ["A", "(A)", "right"]
    assert by_category(choices, texts) == {"Counting": 0.5, "Jigsaw": 1.0}
    assert score(choices, texts)[0].values["accuracy"] == pytest.approx(2 / 3)
    out = io.BytesIO()
    tiny_image(0).save(out, "PNG")
    stored = [{**row, "image_1": {"bytes": out.getvalue(), "path": None}, "image_2": None} for row in rows]
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "blink.parquet")
    assert read_choices("blink", tmp_path / "blink.parquet")[0].images == (out.getvalue(),)
    for wrong, says in (
        ({"answer": "(C)"}, "none of 2"),
        ({"choices": ["x"]}, "list of 2"),
        ({"image_1": 3}, "a path"),
    ):
        with pytest.raises(UserError, match=says):
            read_choices("blink", lines(tmp_path / "wrong.jsonl", [rows[0] | wrong]))


def test_mantis_eval(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question_type": "multi-choice", "question": "<image><image>Same?",
         "images": ["a.png", "b.png"],
         "options": ["(A) yes", "(B) no"], "answer": "B"},
        {"id": "2", "question_type": "short-answer", "question": "How many?", "images": ["a.png"], "options": [],
         "answer": "Three"},
    ]  # fmt: skip
    choices = read_choices("mantis_eval", lines(tmp_path / "m.jsonl", rows))
    assert choices[0].options == ("yes", "no") and is_right(choices[0], "B") == (True, True)
    assert is_right(choices[1], "There are three.") == (True, True) and is_right(choices[1], "four") == (False, True)
    with pytest.raises(UserError, match="3 <image> tags for 2"):
        read_choices("mantis_eval", lines(tmp_path / "m.jsonl", [rows[0] | {"question": "<image><image><image>?"}]))


def test_mvbench(tmp_path: Path) -> None:
    rows = [{"video": "v.mp4", "question": "What moves?", "candidates": ["a cat", "a dog"], "answer": "a dog"}]
    path = tmp_path / "action_sequence.json"
    path.write_text(json.dumps(rows))
    [choice] = read_choices("mvbench", path)
    assert (choice.video, choice.category, choice.answer) == ("v.mp4", "action_sequence", 1)
    path.write_text(json.dumps([rows[0] | {"answer": "a cow"}]))
    with pytest.raises(UserError, match="none of the candidates"):
        read_choices("mvbench", path)


def test_answers_made_elsewhere(tmp_path: Path) -> None:
    rows = [
        {"idx": f"{n}", "sub_task": "T", "question": "?", "choices": ["x", "y"], "answer": "(A)", "image_1": "1.png"}
        for n in range(3)
    ]
    questions = lines(tmp_path / "q.jsonl", rows)
    answers = lines(
        tmp_path / "a.jsonl", [{"id": "0", "answer": "A"}, {"id": "1", "answer": "?"}, {"id": "9", "answer": ""}]
    )
    scored = score_file("blink", ScoreRequest(answers, questions))
    assert scored.metrics["accuracy"] == 0.5 and scored.metrics["mean_over_categories"] == 0.5
    assert (scored.read, scored.scored, scored.unparsed) == (3, 2, 1) and scored.quarantined
    assert "1 of 3" in scored.warnings[0]


def test_asked_through_the_engine(tmp_path: Path) -> None:
    for number in range(2):
        tiny_image(number).save(tmp_path / f"{number}.png")
    rows = [
        {"idx": "0", "sub_task": "T", "question": "?", "choices": ["x", "y"], "answer": "(A)", "image_1": "0.png",
         "image_2": "1.png"},
        {"idx": "1", "sub_task": "T", "question": "?", "choices": ["x", "y"], "answer": "(A)", "image_1": "gone.png"},
    ]  # fmt: skip
    settings = EvalSettings.model_validate(
        {
            "model": str(save_tiny_llava(tmp_path / "model")),
            "benchmarks": ["multiple_choice"],
            "multiple_choice": {"questions": [str(lines(tmp_path / "q.jsonl", rows))], "max_new_tokens": 3},
            "bootstrap": {"samples": 100},
        }
    )
    card = evaluate(settings, tmp_path / "run")
    assert [count.questions for count in card.counts] == [1] and "cannot be used" in card.warnings[0]
    settings.multiple_choice.questions = []
    with pytest.raises(UserError, match="needs its questions"):
        evaluate(settings, tmp_path / "other")
