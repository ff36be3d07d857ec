"""A few steps of the radiology model's training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlavaProcessor

from mmpo.demo.radiology import chests, dictation, model_path
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.prompts import encode_prompt
from tests.conftest import RunModule
from tools.demo_models import radiology_pretrain as training


@pytest.mark.slow
def test_a_few_training_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing, stopped within the second stage and gone on with; then from the model that this gave."""
    plan = training.Plan(see_steps=1, see_batch=2, speak_steps=3, speak_batch=2, save_every=1, warmup=1)
    (rows, _), whole = training.batch(training.build_tokenizer(), plan, 0), training.pretrain(tmp_path / "whole", plan)
    assert rows["input_ids"].shape == rows["labels"].shape and (rows["labels"] >= 0).sum() > 4

    drawn = training.batch

    def interrupted(tokenizer: object, plan: training.Plan, step: int) -> object:
        if step == 2:
            raise KeyboardInterrupt
        return drawn(tokenizer, plan, step)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(tmp_path / "halves", plan)
    monkeypatch.undo()
    halves = training.pretrain(tmp_path / "halves", plan)
    assert (halves / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    folder = training.pretrain(tmp_path / "more", plan, begin=whole)
    assert (folder / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()
    processor = LlavaProcessor.from_pretrained(folder)
    assert processor.tokenizer.decode(processor.tokenizer.encode("Heart size is normal.")).endswith(
        "Heart size is normal."
    )


@pytest.fixture(scope="module")
def model() -> VLM:
    return load_vlm(str(model_path()))


def test_training_rows_are_the_prompts_of_the_processor(model: VLM) -> None:
    plan = training.Plan(speak_batch=1, asked=0.0)
    rows, _ = training.batch(model.tokenizer, plan, 3)
    prompt = rows["input_ids"][rows["labels"] < 0].tolist()
    content = [{"type": "image"}, {"type": "text", "text": dictation.PROMPT}]
    assert prompt == encode_prompt(model, [{"role": "user", "content": content}], 1)
    assert rows["labels"][0, -1].item() == model.eos_id
    film = chests.sample_chest((plan.seed, training.TRAINING, 2, 3)).draw()
    pixels = model.processor.image_processor([film], return_tensors="pt")["pixel_values"]
    assert torch.allclose(rows["pixel_values"], pixels, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "words"),
    [("radiology_pretrain", ["out", "--begin", "nowhere"]), ("radiology_model_card", ["nowhere"]),
     ("model_card", ["nowhere"]), ("video_model_card", [str(model_path()), "--adapter", "nowhere"])],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(module: str, words: list[str], run_module: RunModule, tmp_path: Path) -> None:
    code, told = run_module(f"tools.demo_models.{module}", *words)
    assert code == 2 and told.startswith("error: nowhere: no") and not list(tmp_path.iterdir())
