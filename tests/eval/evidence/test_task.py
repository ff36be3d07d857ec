"""The benchmark `evidence`: golden counts from given descriptions, and a whole evaluation before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.evidence.settings import EvidenceBenchmarkSettings
from mmpo.eval.evidence.task import EvidenceBenchmark
from mmpo.eval.harness import evaluate
from mmpo.eval.protocol import Response
from mmpo.eval.settings import eval_settings
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.eval.task import Context
from mmpo.models.families.loading import load_vlm
from tests.tiny import add_lora, tiny_image
from tests.tiny_detectors import save_tiny_yolos

TRUTH = {"a.png": ["dog", "cup", "chair"], "b.png": ["cat"], "sub/c.png": ["person", "car"]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, and beside them who knows what is in them."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(TRUTH):
        tiny_image(number).save(folder / name)
    rows = [{"image": name, "objects": objects} for name, objects in TRUTH.items()]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def section(photos: Path, **changes: Any) -> EvidenceBenchmarkSettings:
    marked = {
        "source": "annotations",
        "path": str(photos.parent / "truth.jsonl"),
        "complete": True,
        "classes": ["dog", "cup", "chair", "cat", "person", "car", "bird"],
    }
    return EvidenceBenchmarkSettings.model_validate({"images": str(photos), "sources": [marked], **changes})


def test_golden_counts_before_and_after(photos: Path, tmp_path: Path) -> None:
    """a: a dog, a cup and a bird; then the dog alone. b: no cat, a pizza (nobody knows). c: nothing; then a car."""
    task = EvidenceBenchmark(section(photos), Context(cache=str(tmp_path / "cache")))
    said = {
        "before": ["A dog, a cup and a bird. The dog sleeps.", "There is no cat. A pizza.", "A nice picture."],
        "after": ["A dog.", "A cat.", "A car."],
    }
    responses = {
        state: {task.request(photo): Response(text, False) for photo, text in zip(task.questions, texts, strict=True)}
        for state, texts in said.items()
    }
    task.write(tmp_path / "written", responses)
    before, after = (task.score(responses[state])[0].tally for state in ("before", "after"))
    # descriptions, present, absent, uncertain, judged, pool, with_absent, words; the pool is that of both states
    assert before.images == tuple(TRUTH)
    assert before.counts.tolist() == [[1, 2, 1, 0, 3, 2, 1, 10], [1, 0, 0, 1, 0, 1, 0, 6], [1, 0, 0, 0, 0, 1, 0, 3]]
    assert after.counts.tolist() == [[1, 1, 0, 0, 1, 2, 0, 2], [1, 1, 0, 0, 1, 1, 0, 2], [1, 1, 0, 0, 1, 1, 0, 2]]
    assert before.values == pytest.approx(
        {"absent_share": 1 / 3, "absent_per_description": 1 / 3, "with_absent": 1 / 3, "recall_pool": 2 / 4,
         "uncertain_share": 1 / 4, "words": 19 / 3}
    )  # fmt: skip
    assert after.values["absent_share"] == 0 and after.values["recall_pool"] == 3 / 4
    rows = [json.loads(line) for line in (tmp_path / "written" / "verdicts_before.jsonl").read_text().splitlines()]
    assert [(row["image"], {one["name"]: one["verdict"] for one in row["claims"]}) for row in rows] == [
        ("a.png", {"dog": "present", "cup": "present", "bird": "absent"}),
        ("b.png", {"pizza": "uncertain"}),
        ("sub/c.png", {}),
    ]
    assert rows[1]["claims"][0]["by"] == [
        {"source": "annotations", "verdict": None, "z": None, "confidence": None, "why": "outside_vocabulary"}
    ]
    assert rows[1]["also_present"] == ["cat"] and rows[2]["also_present"] == ["car"]
    assert json.loads((tmp_path / "written" / "cuts.json").read_text())["sources"].keys() == {"annotations"}


def test_a_whole_evaluation(photos: Path, parrot_folder: Path, tmp_path: Path) -> None:
    """A model that says `a cat …, a dog … and two cups` of everything, before and after; judged by a detector too."""
    detector = save_tiny_yolos(tmp_path / "yolos")
    sources = [*section(photos).model_dump(mode="json")["sources"], {"source": "detector", "model": str(detector)}]
    (photos / "broken.png").write_bytes(b"no picture")
    add_lora(load_vlm(str(parrot_folder)), spread=0.0).model.save_pretrained(tmp_path / "adapter")
    settings = eval_settings().model_validate(
        {
            "model": str(parrot_folder),
            "adapter": str(tmp_path / "adapter"),
            "benchmarks": ["evidence"],
            "dtype": "float32",
            "bootstrap": {"samples": 200},
            "evidence": {
                "images": str(photos),
                "sources": sources,
                "prompt": "Describe the image.",
                "max_new_tokens": 32,
            },
        }
    )
    card = evaluate(settings, tmp_path / "run")
    row = card.row("evidence", "absent_share")
    assert row.before is not None and row.after is not None and row.change is not None
    assert row.before.value == pytest.approx(6 / 9)  # of three classes in three photos a dog, a cup and a cat are there
    assert {count.images for count in card.counts} == {3} and sum(card.quarantined.values()) == 1
    assert Scorecard.read(tmp_path / "run" / "scorecard.json").conventions
    assert "evidence" in card.to_markdown()
    assert (tmp_path / "run" / "evidence" / "verdicts_after.jsonl").is_file()


def test_mistakes_are_told_before_anything_is_asked(photos: Path, tmp_path: Path) -> None:
    def problem(settings: EvidenceBenchmarkSettings) -> str:
        with pytest.raises(UserError) as caught:
            EvidenceBenchmark(settings, Context(cache=str(tmp_path / "cache"), look=True))
        return str(caught.value)

    assert "needs photos" in problem(EvidenceBenchmarkSettings())
    assert "needs sources" in problem(section(photos, sources=[]))
    assert "needs `model`" in problem(section(photos, sources=[{"source": "self"}]))
    assert "no such model folder" in problem(
        section(photos, sources=[{"source": "detector", "model": str(tmp_path / "x")}])
    )
    shared = {"annotations": str(photos.parent / "truth.jsonl"), "images": str(photos)}
    with pytest.raises(UserError, match="also controls"):
        EvidenceBenchmark(section(photos, controls=shared), Context(cache=str(tmp_path / "cache")))
