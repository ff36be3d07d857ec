"""DASH-B: index files, rates, the authors' answer file, and a model that is really asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.dashb.metrics import read_questions, score
from mmpo.eval.harness import evaluate
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.scoring import score as score_file
from mmpo.eval.settings import EvalSettings
from tests.tiny import save_tiny_llava, tiny_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number, side in enumerate(("neg", "pos")):
        index = {"coco": {"dog": ["a.png", "b.png"]}, "spurious_imagenet": {"ice cream": ["c.png"]}}
        for dataset, objects in index.items():
            for name, files in objects.items():
                place = root / side / dataset / name
                place.mkdir(parents=True)
                for file in files:
                    tiny_image(number * 10 + ord(file[0])).save(place / file)
        (root / f"dash_benchmark_{side}.json").write_text(json.dumps(index))
    return root


def test_questions_and_rates(folder: Path) -> None:
    questions = read_questions(folder)
    assert [(one.image, one.label) for one in questions[:3]] == [
        ("neg/coco/dog/a.png", "no"), ("neg/coco/dog/b.png", "no"), ("neg/spurious_imagenet/ice cream/c.png", "no"),
    ]  # fmt: skip
    assert questions[2].prompt == "Can you see a ice cream in this image? Please answer only with yes or no."
    tally, unread = score(questions, ["No", "Yes, a dog", "cannot tell", "Yes", "maybe", "eyes"])
    assert tally.values == pytest.approx(
        {"accuracy": 4 / 6, "TNR": 2 / 3, "TPR": 2 / 3, "harmonic_mean": 2 / 3, "yes_ratio": 3 / 6}
    )
    assert unread == 1
    always, _ = score(questions, ["yes"] * 6)
    assert (always.values["accuracy"], always.values["TNR"], always.values["TPR"]) == (0.5, 0, 1)


def test_a_model_is_asked_and_its_file_is_scored_alike(folder: Path, tmp_path: Path) -> None:
    settings = EvalSettings.model_validate(
        {"model": str(save_tiny_llava(tmp_path / "model")), "benchmarks": ["dashb"], "limit": 4,
         "dashb": {"folder": str(folder), "max_new_tokens": 3}}
    )  # fmt: skip
    evaluate(settings, tmp_path / "run")
    rows = json.loads((tmp_path / "run/dashb/answers_after.json").read_text())
    assert [row["gt"] for row in rows] == ["no", "no", "yes", "yes"] and rows[0]["img_id"] == "a.png"
    for row, text in zip(rows, ("no", "yes", "Yes.", "?"), strict=True):
        row["response"] = text
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = score_file("dashb", ScoreRequest(tmp_path / "a.json"))
    assert (found.metrics["TNR"], found.metrics["TPR"], found.metrics["accuracy"]) == (0.5, 0.5, 0.5)


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dash_benchmark_neg\.json does not exist"):
        read_questions(tmp_path)
    (folder / "dash_benchmark_pos.json").write_text(json.dumps({"coco": {"dog": "a.png"}}))
    with pytest.raises(UserError, match="coco/dog must be a list"):
        read_questions(folder)
    (tmp_path / "a.json").write_text(json.dumps([{"img_id": "a", "object_name": "dog", "gt": "maybe", "response": ""}]))
    with pytest.raises(UserError, match="`gt` must be yes or no"):
        score_file("dashb", ScoreRequest(tmp_path / "a.json"))
