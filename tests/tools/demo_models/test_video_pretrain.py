"""A step of the video model's training, and the demo with the model that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlavaProcessor
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.demo.video import clips
from mmpo.eval.statistics.scorecard import Scorecard
from tools.demo_models.video_agreement import measure
from tools.demo_models.video_pretrain import BEFORE, Plan, clip_row, pretrain

SOME = [clips.sample_clip((0, 9, index)) for index in range(120)]


def test_single_frames_are_asked_about_truly() -> None:
    for clip in SOME[:40]:
        for turn in clip_row((*clip.seed,))[2]:
            if ", where is the " not in turn.question:
                continue
            frame, thing = turn.question.removeprefix("In Image").split(", where is the ")
            sides = {f"The {item.thing} is {item.side}." for item in clip.scene(int(frame) - 1).items}
            assert turn.answer in sides and turn.answer.startswith(f"The {thing[:-1]} is ")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after one step of training."""
    return pretrain(tmp_path_factory.mktemp("model"), Plan(steps=1, batch=2))


def test_a_step_of_training(model: Path) -> None:
    weights = list(model.glob("*.safetensors"))
    assert weights and all(file.stat().st_size <= 8_000_000 for file in weights)
    processor = LlavaProcessor.from_pretrained(model)
    text = "The cow enters from the left. The traffic light leaves to the right. No, it does not pass."
    ids = processor.tokenizer.encode(text)
    assert len(ids) < len(text.split()) + 8, "the words of events are a token each"
    assert processor.tokenizer.decode(ids) == text
    content = [*[{"type": "image"}] * clips.KEY_FRAMES, {"type": "text", "text": "What?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == f"<s>USER: {BEFORE}What? ASSISTANT:", "asked as it was trained"


@pytest.mark.slow
def test_the_quick_demo_runs_from_end_to_end(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["demo", "video", "--quick", "--model", str(model), "--out", str(run)]
    result = CliRunner().invoke(load_commands(), command)
    assert result.exit_code == 0, result.output
    results = json.loads((run / "results.json").read_text())
    assert results["build"]["pairs_made"] > 0
    card = Scorecard.read(run / "eval" / "scorecard.json")
    assert card.row("video_qa", "false_events", None).before and card.row("temporal", "overall", None).before
    found = measure(run)
    assert found["annotations"].pairs == results["build"]["pairs_made"]
    assert found["annotations"].agreement is not None
