"""The demo model's training repeats and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpo.demo import model_path
from tools.demo_models import pretrain
from tools.demo_models.assemble import build_model, build_processor


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [pytest.param(None, id="from-nothing"), pytest.param(model_path(), id="from-a-model")],
)
def test_training_interrupted_and_run_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Path | None
) -> None:
    small = {"see_batch": 4, "find_batch": 4, "tell_batch": 4, "warmup": 3, "save_every": 1, "mend_scenes": 4}
    plan = pretrain.Plan(see_steps=2, find_steps=2, fit_steps=2, tell_steps=2, **small)
    pretrain.pretrain(tmp_path / "whole", plan, begin)
    real, calls = pretrain.batch_loss, []

    def interrupted(*arguments: object, **named: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain, "batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(tmp_path / "cut", plan, begin)
    monkeypatch.setattr(pretrain, "batch_loss", real)
    pretrain.pretrain(tmp_path / "cut", plan, begin)
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
def test_the_same_seed_builds_the_same_model() -> None:
    processor = build_processor()
    one, two, other = (build_model(processor, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
