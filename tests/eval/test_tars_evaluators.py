"""The four evaluators of TARS' paper in one run, with the settings of the shipped recipe over tiny published files."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.recipes import load
from tests.chat.server import ChatServer
from tests.eval.mmhal.test_mmhal import record
from tests.eval.test_published_questions import question_file
from tests.tiny import add_lora, save_tiny_llava, tiny_image, tiny_llava


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, adapter, and each benchmark's files where the recipe expects them."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_llava(folder / "model")
    add_lora(tiny_llava(), seed=1, spread=0.3).model.save_pretrained(folder / "adapter")
    for name in ("amber/image", "amber/data/query", "mmhal/images", "pope", "object_halbench", "coco/val2014"):
        (folder / name).mkdir(parents=True)
    for number in (1, 2, 3):
        tiny_image(number).save(folder / f"amber/image/AMBER_{number}.jpg")
        tiny_image(number).save(folder / f"mmhal/images/img{number}.png")
        tiny_image(number).save(folder / f"coco/val2014/{number}.png")
    items = [{"id": n, "type": "generative", "truth": ["dog"], "hallu": ["cat"]} for n in (1, 2, 3)]
    queries = [{"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in (1, 2, 3)]
    (folder / "amber/data/annotations.json").write_text(json.dumps(items))
    (folder / "amber/data/relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": []}))
    (folder / "amber/data/safe_words.txt").write_text("light")
    (folder / "amber/data/query/query_all.json").write_text(json.dumps(queries))
    (folder / "mmhal/mmhal-bench_answer_template.json").write_text(json.dumps([record(n, "") for n in (1, 2, 3)]))
    for split in ("random", "popular", "adversarial"):
        question_file(folder / f"pope/coco_pope_{split}.json", ["1.png", "2.png"])
    rows = [
        {
            "image_id": n,
            "question": "What is there?",
            "image": base64.b64encode((folder / f"amber/image/AMBER_{n}.jpg").read_bytes()).decode(),
        }
        for n in (1, 2)
    ]
    (folder / "object_halbench/obj_halbench_300_with_image.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    (folder / "gt.json").write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    return folder


def answer(prompt: str) -> str:
    return f"So.\nRating: {len(prompt) % 7}" if "Rating: K" in prompt else '["dog", "cat"]'


def test_one_run_has_all_four(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("tars-llava-1.5-7b", run=tmp_path)
    assert recipe.eval is not None
    values: dict[str, Any] = recipe.eval.model_dump()
    monkeypatch.chdir(world)  # a recipe's paths start where it is run
    with ChatServer(answer) as server:
        values |= {
            "model": "model", "adapter": "adapter", "annotations": None, "images": "coco/val2014",
            "judge": server.settings().model_dump(), "dtype": "float32", "bootstrap": {"samples": 200},
        }  # fmt: skip
        values["amber"] |= {"words": "noun-lemma", "max_new_tokens": 6}
        values["mmhal"]["max_new_tokens"] = values["object_halbench"]["max_new_tokens"] = 6
        values["object_halbench"]["annotations"] = "gt.json"
        card = evaluate(EvalSettings.model_validate(values), tmp_path / "eval")
    paper = [
        ("amber", "CHAIR", "generative"), ("amber", "Cover", "generative"), ("amber", "Hal", "generative"),
        ("amber", "Cog", "generative"), ("mmhal", "score", None), ("mmhal", "hallucination_rate", None),
        ("pope", "accuracy", "random"), ("pope", "precision", "adversarial"),
        ("object_halbench", "CHAIRs", None), ("object_halbench", "CHAIRi", None),
    ]  # fmt: skip
    known = {(row.benchmark, row.metric, row.split) for row in card.rows}
    assert not set(paper) - known, sorted(known)
    for benchmark, metric, split in paper:
        row = card.row(benchmark, metric, split)
        assert row.before is not None and row.change is not None
    text = (tmp_path / "eval/scorecard.md").read_text()
    assert all(word in text for word in ("Cover", "hallucination_rate", "CHAIR"))
