"""Questions about one of several pictures: built, read, scored, and asked through the engine before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.multi_image.metrics import (
    MultiQuestion,
    build_questions,
    read_answer,
    read_questions,
    score,
    write_questions,
)
from mmpo.eval.multi_image.settings import MultiImageSettings
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import add_lora, save_tiny_llava, tiny_image, tiny_llava

TRUTH = {"a": ("dog", "cup"), "b": ("cat",), "c": ("dog", "tree"), "d": (), "e": ("ball", "cat", "cat")}
NAMES = ("dog", "cup", "cat", "tree", "ball", "car")


def test_questions_are_true_of_their_pictures() -> None:
    chosen = MultiImageSettings(prompts=40, sequence_sizes=[2, 3, 4])
    questions = build_questions(TRUTH, NAMES, chosen)
    assert questions == build_questions(TRUTH, NAMES, chosen)
    kinds = {(question.layout, question.kind) for question in questions}
    assert {kind for layout, kind in kinds if layout == "pic_in_pic"} == {"present", "elsewhere", "absent"}
    assert {kind for layout, kind in kinds if layout == "sequence"} == {"present", "elsewhere", "absent", "which"}
    for q in questions:
        assert len(set(q.pictures)) == len(q.pictures) and "d" not in q.pictures
        own, others = set(TRUTH[q.target]), {n for p in q.pictures if p != q.target for n in TRUTH[p]}
        if q.kind == "present":
            assert q.object in own and q.answer == "yes"
        elif q.kind == "elsewhere":
            assert q.object in others - own and q.answer == "no"
        elif q.kind == "absent":
            assert q.object not in own | others and q.answer == "no"
        else:
            assert q.object in own - others and q.answer == str(q.index)
        assert q.prompt.count("<image>") == (len(q.pictures) if q.layout == "sequence" else 1)
        if q.kind != "which" and q.layout != "pic_in_pic":
            assert f"In Image{q.index}, is there a {q.object}?" in q.prompt
    assert len({q.id for q in questions}) == len(questions)
    with pytest.raises(UserError, match="2 annotated images"):
        build_questions({"a": ("x",), "b": ("y",)}, NAMES, chosen)


def question(kind: Any, answer: str, layout: Any = "sequence") -> MultiQuestion:
    return MultiQuestion(f"{layout}/{kind}", layout, ("a", "b", "c"), 2, kind, "dog", "?", answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Image3.", "3"), ("It is image 2, not image 1", "2"), ("The second one.", "2"), ("3", "3"), ("A dog.", None),
     ("There are 2 dogs in it", None)],
)  # fmt: skip
def test_numbers_of_images_are_read(text: str, answer: str | None) -> None:
    read = read_answer(question("which", "2"), text)
    assert (read.answer, read.found) == (answer, answer is not None)


def test_failures_are_told_apart() -> None:
    asked = [question("present", "yes"), question("elsewhere", "no"), question("absent", "no"), question("which", "2")]
    tally, unread = score(asked, ["No.", "Yes, there is a dog.", "No.", "Image3."])
    values = tally.values
    assert values["accuracy"] == 0.25 and values["yes_no_accuracy"] == pytest.approx(1 / 3) and unread == 0
    assert (values["missed"], values["interference"], values["invention"]) == (1, 1, 0)
    assert (values["confusion"], values["which_accuracy"], values["yes_ratio"]) == (1, 0, pytest.approx(1 / 3))
    tally, unread = score(asked, ["Yes.", "No.", "Yes.", "Image9."])
    assert tally.values["confusion"] == 0, "an image that isn't shown is no confusion of images"
    assert tally.values["invention"] == 1 and tally.values["interference"] == 0 and unread == 0
    assert score(asked[3:], ["a dog"])[1] == 1


def test_answers_made_elsewhere(tmp_path: Path) -> None:
    questions = build_questions(TRUTH, NAMES, MultiImageSettings(prompts=3))
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    beyond = {**json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0]), "index": 9}
    (tmp_path / "beyond.jsonl").write_text(json.dumps(beyond) + "\n")
    with pytest.raises(UserError, match=r"beyond.jsonl:1: `index` 9 of"):
        read_questions(tmp_path / "beyond.jsonl")
    right = [{"id": q.id, "answer": f"Image{q.answer}" if q.kind == "which" else q.answer} for q in questions]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*right[1:], {"id": "x", "answer": ""}])
    )
    scored = score_file("multi_image", ScoreRequest(tmp_path / "a.jsonl", tmp_path / "q.jsonl"))
    assert scored.metrics["all layouts"]["accuracy"] == 1 and scored.metrics["sequence"]["confusion"] == 0
    assert scored.read == scored.scored + sum(scored.quarantined.values()) and "1 of" in scored.warnings[0]


def test_asked_before_and_after(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    rows = []
    for number, objects in enumerate((["dog"], ["cat", "cup"], ["tree"], ["dog", "ball"], ["cat"])):
        tiny_image(number, (50, 44)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "objects": objects})
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_tiny_llava(tmp_path / "model")
    add_lora(tiny_llava(), spread=0.3).model.save_pretrained(tmp_path / "adapter")
    settings = EvalSettings.model_validate(
        {
            "model": str(model),
            "adapter": str(tmp_path / "adapter"),
            "annotations": str(folder / "annotations.jsonl"),
            "benchmarks": ["multi_image"],
            "multi_image": {"prompts": 3, "max_new_tokens": 3},
            "bootstrap": {"samples": 100},
            "dtype": "float32",
        }
    )
    card = evaluate(settings, tmp_path / "run")
    rows_of = {(row.split, row.metric) for row in card.rows}
    assert {("sequence", "confusion"), ("collage", "interference"), ("pic_in_pic", "accuracy")} <= rows_of
    assert ("all layouts", "accuracy") in rows_of
    written = (tmp_path / "run" / "multi_image" / "answers_before.jsonl").read_text().splitlines()
    assert len(written) == len(read_questions(tmp_path / "run" / "multi_image" / "questions.jsonl"))
    assert evaluate(settings, tmp_path / "run").rows == card.rows
