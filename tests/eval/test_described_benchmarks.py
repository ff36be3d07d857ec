"""AMBER and Object HalBench asked of a tiny LLaVA, before and after its adapter, from published-form files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.object_halbench.metrics import read_questions
from mmpo.eval.object_halbench.task import picture_paths
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.scorecard import Scorecard
from tests.chat.server import ChatServer
from tests.tiny import add_lora, save_tiny_llava, tiny_image, tiny_llava

TYPES = ("discriminative-hallucination", "discriminative-attribute-state", "relation")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_tiny_llava(folder / "model")
    add_lora(tiny_llava(), seed=1, spread=0.3).model.save_pretrained(folder / "adapter")
    for name in ("images", "data/query"):
        (folder / name).mkdir(parents=True)
    items, queries = [], []
    for number in (1, 2, 3):
        tiny_image(number).save(folder / f"images/AMBER_{number}.jpg")
        items.append({"id": number, "type": "generative", "truth": ["dog"], "hallu": ["cat"]})
        queries.append({"id": number, "image": f"AMBER_{number}.jpg", "query": "Describe this image."})
    for number, kind in enumerate(TYPES, start=4):
        items.append({"id": number, "type": kind, "truth": "no"})
        queries.append({"id": number, "image": "AMBER_1.jpg", "query": f"Is there a thing {number}?"})
    (folder / "data/annotations.json").write_text(json.dumps(items))
    (folder / "data/relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": []}))
    (folder / "data/safe_words.txt").write_text("light")
    (folder / "data/query/query_all.json").write_text(json.dumps(queries))
    rows = [
        {
            "image_id": number,
            "question": "What is there?",
            "image": base64.b64encode((folder / f"images/AMBER_{number}.jpg").read_bytes()).decode(),
        }
        for number in (1, 2)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "gt.json").write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    return folder


def settings(world: Path, benchmarks: list[str], **changes: object) -> EvalSettings:
    values: dict = {
        "model": str(world / "model"),
        "adapter": str(world / "adapter"),
        "benchmarks": benchmarks,
        "amber": {
            "data": str(world / "data"), "image_folder": str(world / "images"), "words": "noun-lemma",
            "max_new_tokens": 6, "yes_no_tokens": 2,
        },
        "object_halbench": {
            "questions": str(world / "questions.jsonl"), "image_folder": str(world / "unpacked"),
            "annotations": str(world / "gt.json"), "max_new_tokens": 6,
        },
        "bootstrap": {"samples": 200},
        "dtype": "float32",
    }  # fmt: skip
    return EvalSettings(**(values | changes))


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scorecard]:
    run = tmp_path_factory.mktemp("run")
    return run, evaluate(settings(world, ["amber", "object_halbench"]), run)


def test_rows_of_both(finished: tuple[Path, Scorecard]) -> None:
    _, card = finished
    splits = {row.split for row in card.rows if row.benchmark == "amber"}
    assert splits == {"generative", "all", "existence", "attribute", "state", "relation", "both halves"}
    assert card.row("amber", "Cover", "generative").before is not None
    assert card.row("object_halbench", "CHAIRs").after.value == 0
    asked = {(c.benchmark, c.split, c.state): c.questions for c in card.counts}
    assert asked["amber", "generative", "after"] == 3 and asked["amber", "all", "before"] == 3
    assert asked["object_halbench", None, "after"] == 2


def test_written_files_score_to_the_same_numbers(world: Path, finished: tuple[Path, Scorecard]) -> None:
    run, card = finished
    options = {"words": "noun-lemma"}
    request = ScoreRequest(run / "amber/responses_after.json", annotations=world / "data", options=options)
    exact = score("amber", request).metrics["exact"]
    for name in ("CHAIR", "Cover", "Hal", "Cog"):
        assert card.row("amber", name, "generative").after.value == pytest.approx(exact[name] / 100)
    for line in ("all", "attribute", "relation"):
        for name, value in exact["discriminative"][line].items():
            assert card.row("amber", name, line).after.value == pytest.approx(value / 100)
    assert card.row("amber", "AMBER_score", "both halves").after.value == pytest.approx(exact["AMBER_score"] / 100)
    answers = ScoreRequest(run / "object_halbench/answers_after.jsonl", annotations=world / "gt.json")
    assert score("object_halbench", answers).metrics["CHAIRs"] == 0


def test_pictures_in_the_question_file_are_unpacked(world: Path, finished: tuple[Path, Scorecard]) -> None:
    assert sorted(path.name for path in (world / "unpacked").iterdir()) == ["1.jpg", "2.jpg"]
    assert (world / "unpacked/1.jpg").read_bytes() == (world / "images/AMBER_1.jpg").read_bytes()


def test_objects_listed_by_a_judge(world: Path, finished: tuple[Path, Scorecard], tmp_path: Path) -> None:
    run, _ = finished
    (tmp_path / "answers.jsonl").write_bytes((run / "answers.jsonl").read_bytes())
    with ChatServer('["dog"]') as server:
        own = {"judge": server.settings().model_dump()}
        card = evaluate(settings(world, ["object_halbench"], **own), tmp_path)
    texts = [json.loads(line)["answer"] for line in (tmp_path / "object_halbench/answers_after.jsonl").open()]
    long = [len(text.split()) > 3 for text in texts]
    assert card.row("object_halbench", "CHAIRs").after.value == pytest.approx(long[1] / 2)  # image 2 shows no dog
    assert any("object_halbench_extract@" in line for line in card.conventions)


def test_limit_and_parts(world: Path, tmp_path: Path) -> None:
    chosen = settings(world, ["amber"], adapter=None, limit=2)
    chosen.amber.parts = ["generative"]
    card = evaluate(chosen, tmp_path)
    assert {row.split for row in card.rows} == {"generative"}
    assert {count.questions for count in card.counts} == {2}


def test_chair_with_word_forms_by_name(world: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations.jsonl").write_text(
        '{"image": "AMBER_1.jpg", "objects": ["dog"], "captions": ["Two cats"]}'
    )
    own = {
        "adapter": None, "images": str(world / "images"), "annotations": str(tmp_path / "annotations.jsonl"),
        "chair": {"words": "noun-lemma", "max_new_tokens": 4},
    }  # fmt: skip
    card = evaluate(settings(world, ["chair"], **own), tmp_path / "run")
    assert any("word forms noun-lemma" in line for line in card.conventions)
    row = json.loads((tmp_path / "run/chair/sentences_after.jsonl").read_text())
    assert {*row["found"], *row["missed"]} == {"dog", "cat"}


@pytest.mark.parametrize(
    ("benchmark", "section", "message"),
    [
        ("amber", {"data": None}, "amber needs eval.amber.data"),
        ("amber", {"queries": ["missing.json"]}, "missing.json does not exist"),
        ("object_halbench", {"annotations": None}, "object_halbench needs eval.object_halbench.annotations"),
        ("object_halbench", {"extraction": "model"}, "extraction is `model`, but eval.judge is not set"),
    ],
)
def test_what_is_missing_is_named(world: Path, tmp_path: Path, benchmark: str, section: dict, message: str) -> None:
    chosen = settings(world, [benchmark])
    for name, value in section.items():
        setattr(getattr(chosen, benchmark), name, value)
    with pytest.raises(UserError, match=message):
        evaluate(chosen, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": "../evil", "image": "aGk="}, "cannot be a file name"),
        ({"image_id": 1, "image": "not base64!"}, "neither the name of a picture nor base64"),
        ({"image_id": 1}, "no `image`, and the annotations have no file for 1"),
    ],
)
def test_pictures_that_cannot_be_found(tmp_path: Path, row: dict, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "What?"} | row) + "\n")
    with pytest.raises(UserError, match=message):
        picture_paths(read_questions(path), tmp_path / "images", [])
    assert not (tmp_path / "evil.jpg").exists()
