"""Video QA and temporal questions through the whole evaluation, before and after an adapter, with a tiny real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.video import read_frames
from mmpo.video.clip import Clip
from tests.chat.server import ChatServer
from tests.tiny import add_lora, save_tiny_llava, tiny_llava
from tests.tiny_videos import openable, save_video_model
from tests.video import clips

__all__ = ["openable"]

CAPTION = (
    "A cat enters from the left while a cup stands still in the middle of a grey room with a red box in it, all quiet."
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, the last one broken, with questions in mmpo's own form and in VideoHallucer's."""
    folder = tmp_path_factory.mktemp("video-world")
    rows, pairs = [], []
    for number in range(3):
        clips.write(folder / f"v{number}.mp4", n=10)
        qa = [
            {"question": "What is there?", "answer": "A cat."},
            {"question": "Does the cat enter?", "answer": "Yes, it does."},
        ]
        rows.append(
            {
                "id": f"v{number}",
                "video": f"v{number}.mp4",
                "caption": CAPTION,
                "qa": qa,
                "objects": ["cat", "cup"],
                "events": [["cat", "enters"]],
            }
        )
        side = {"video": f"v{number}.mp4", "question": "Is there a cat?", "answer": "yes"}
        pairs.append(
            {"type": "object", "basic": side, "hallucination": {**side, "question": "Is there a dog?", "answer": "no"}}
        )
    (folder / "v2.mp4").write_bytes(b"not a video at all")
    (folder / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "hallucer.json").write_text(json.dumps(pairs))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = save_tiny_llava(tmp_path_factory.mktemp("model"))
    adapter = tmp_path_factory.mktemp("adapter")
    add_lora(tiny_llava(), spread=0.3).model.save_pretrained(adapter)
    return folder, adapter


def settings(model: tuple[Path, Path], **changes: Any) -> EvalSettings:
    fields = {"model": str(model[0]), "adapter": str(model[1]), "bootstrap": {"samples": 200}, "dtype": "float32"}
    return EvalSettings.model_validate({**fields, **changes})


def test_rules_and_temporal_questions(world: Path, model: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = settings(
        model,
        benchmarks=["video_qa", "temporal"],
        video_qa={
            "questions": str(world / "videos.jsonl"),
            "judged_by": "rules",
            "frames": {"num": 3},
            "max_new_tokens": 6,
        },
        temporal={
            "questions": str(world / "hallucer.json"),
            "videos": str(world),
            "frames": {"num": 3},
            "max_new_tokens": 4,
        },
    )
    card = evaluate(chosen, tmp_path)
    rows = {(row.benchmark, row.metric): row for row in card.rows}
    assert {"accuracy", "score", "hallucination", "false_events"} <= {
        metric for name, metric in rows if name == "video_qa"
    }
    assert {"basic", "hallucination", "overall"} <= {metric for name, metric in rows if name == "temporal"}
    assert rows["video_qa", "score"].before is not None and 1 <= rows["video_qa", "score"].after.value <= 5
    counts = {(count.benchmark, count.state): count for count in card.counts}
    assert counts["video_qa", "after"].questions == 4 and counts["temporal", "after"].questions == 4
    assert sum(card.quarantined.values()) and any("cannot be used" in warning for warning in card.warnings)
    answers = [json.loads(line) for line in (tmp_path / "video_qa" / "answers_after.jsonl").read_text().splitlines()]
    assert len(answers) == 4 and all("pred" in row for row in answers)
    published = json.loads((tmp_path / "temporal" / "answers_before.json").read_text())
    assert len(published) == 2 and "predict" in published[0]["basic"]
    assert evaluate(chosen, tmp_path).rows == card.rows, "a finished evaluation asks nothing again"


def test_a_judge_reads_the_answers(world: Path, model: tuple[Path, Path], tmp_path: Path) -> None:
    questions = tmp_path / "msvd.json"
    questions.write_text(
        json.dumps([{"id": n, "video_id": n, "question": "what is there?", "answer": "cat"} for n in (0, 1)])
    )
    with ChatServer("{'pred': 'yes', 'score': 4}") as server:
        chosen = settings(
            model,
            benchmarks=["video_qa"],
            judge=server.settings().model_dump(),
            video_qa={
                "questions": str(questions),
                "videos": str(world),
                "video_pattern": "v{video}.mp4",
                "frames": {"num": 2},
                "max_new_tokens": 4,
            },
        )
        card = evaluate(chosen, tmp_path / "run")
        asked = len(server.requests)
        assert evaluate(chosen, tmp_path / "run").rows == card.rows and len(server.requests) == asked
    rows = {row.metric: row for row in card.rows}
    assert rows["accuracy"].after.value == 1.0 and rows["score"].after.value == 4.0
    assert "scripted-1" in " ".join(card.conventions)


def test_what_is_missing_is_said(world: Path, model: tuple[Path, Path], tmp_path: Path) -> None:
    for changes, says in (
        ({"benchmarks": ["video_qa"]}, "needs its questions"),
        ({"benchmarks": ["video_qa"], "video_qa": {"questions": str(world / "videos.jsonl")}}, "needs a judge"),
        ({"benchmarks": ["temporal"]}, "questions and videos"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(settings(model, **changes), tmp_path)


def test_videos_are_asked_about_as_the_model_gets_them(world: Path, tmp_path: Path, openable: None) -> None:
    """Natively the answers are the engine's on clips; the other way of showing them never finds these in a cache."""
    model = save_video_model("qwen2_5_vl", tmp_path / "model")
    cards, keys = {}, {}
    for mode in ("native", "frames", "auto"):
        chosen = EvalSettings.model_validate(
            {
                "model": str(model),
                "video_input": mode,
                "cache": str(tmp_path / "cache"),
                "dtype": "float32",
                "bootstrap": {"samples": 200},
                "benchmarks": ["temporal"],
                "temporal": {
                    "questions": str(world / "hallucer.json"),
                    "videos": str(world),
                    "frames": {"num": 4, "max_side": 40},
                    "max_new_tokens": 4,
                },
            }
        )
        cards[mode] = evaluate(chosen, tmp_path / mode)
        rows = [json.loads(line) for line in (tmp_path / mode / "answers.jsonl").read_text().splitlines()]
        keys[mode] = {row["key"]: row["answer"] for row in rows}
        assert len(rows) == 2, "the two clips are the same video under two names"
        if mode != "auto":
            clips_of = {name: read_frames(world / name, num=4, max_side=40) for name in ("v0.mp4", "v1.mp4")}
            vlm = load_vlm(model, video_input=mode, device="cpu")
            for row in rows:
                given = Clip.of(clips_of[row["image"]])
                shown: Any = given if mode == "native" else list(given.frames)
                (answer,) = AnswerEngine(vlm, max_new_tokens=4).answer([(shown, [row["prompt"]])])
                assert (answer.text, pytest.approx(answer.p_yes, abs=1e-5)) == (row["answer"], row["p_yes"])
    said = {mode: "shown as videos" in " ".join(card.conventions) for mode, card in cards.items()}
    assert said == {"native": True, "frames": False, "auto": True}
    assert not set(keys["native"]) & set(keys["frames"]) and keys["auto"] == keys["native"]
    assert not (tmp_path / "auto" / "engine.json").exists(), "everything was in the cache"


def test_a_model_without_videos_is_not_made_to_take_them(world: Path, model: tuple[Path, Path], tmp_path: Path) -> None:
    temporal = {"questions": str(world / "hallucer.json"), "videos": str(world)}
    with pytest.raises(UserError, match="LLaVA takes no videos"):
        evaluate(settings(model, benchmarks=["temporal"], temporal=temporal, video_input="native"), tmp_path)
