"""QLoRA: an adapter on weights of four bits trains as on others, on a CPU too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.scoring.score import PairScorer
from mmpo.trainers.lora import add_lora
from mmpo.trainers.reference import reference_identity
from mmpo.trainers.settings import LoraSettings
from mmpo.trainers.train import train
from tests.models.pairs import gradients, mixed_batch, worst_relative
from tests.trainers.material import settings_for, write_pairs

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (pip install 'mmpo[qlora]')"
)


@pytest.fixture
def policy(tiny_llava_folder: Path) -> VLM:
    vlm = add_lora(load_vlm(tiny_llava_folder, quantize="nf4", device="cpu"), LoraSettings(rank=2))
    for name, weight in vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return vlm


def test_without_the_package_it_says_so(tiny_llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes[\s\S]*mmpo\[qlora\]"):
        load_vlm(tiny_llava_folder, quantize="nf4")


@needs_bitsandbytes
def test_decoder_layers_are_quantized_and_nothing_else(tiny_llava_folder: Path) -> None:
    vlm = load_vlm(tiny_llava_folder, quantize="nf4", device="cpu")
    small = {name for name, module in vlm.base.named_modules() if type(module).__name__ == "Linear4bit"}
    linear = {name for name, module in vlm.base.named_modules() if isinstance(module, nn.Linear)}
    assert small == {name for name in linear if ".language_model.layers." in name} and len(small) == 14
    assert vlm.dtype == torch.float32 and type(vlm.head) is nn.Linear
    assert reference_identity(vlm) != reference_identity(load_vlm(tiny_llava_folder))


@needs_bitsandbytes
def test_shared_equals_unshared(policy: VLM) -> None:
    batch = mixed_batch(policy)
    rows = PairScorer(policy, sharing="off")(batch)
    expected = gradients(policy, rows)
    scorer = PairScorer(policy, sharing="on")
    pairs = scorer(batch)
    torch.testing.assert_close(pairs.rejected.policy, rows.rejected.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(pairs.rejected.reference, rows.rejected.reference, rtol=0, atol=1e-5)
    assert worst_relative(gradients(policy, pairs), expected) < 1e-4
    assert len(expected) == 28 and all("lora_" in name for name in expected)
    scorer.train().gradient_checkpointing_enable()
    assert worst_relative(gradients(policy, scorer(batch)), expected) < 1e-4


@needs_bitsandbytes
def test_an_evaluation_before_training_takes_no_gradient_away(policy: VLM) -> None:
    """bitsandbytes repacks weights when a CPU evaluates, and the product with those is no function of autograd: without
    an error, nothing below the last layer would train."""
    batch = mixed_batch(policy)
    scorer = PairScorer(policy, sharing="on")
    expected = gradients(policy, scorer.train()(batch))
    with torch.no_grad():
        scorer.eval()(batch)
    found = gradients(policy, scorer.train()(batch))
    assert worst_relative(found, expected) < 1e-5
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


@needs_bitsandbytes
def test_a_run_learns_and_its_adapter_opens_on_whole_weights(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    settings = settings_for(tiny_llava_folder, pairs, epochs=3, quantize="nf4", cache_reference=True)
    result = train(settings, tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    assert result.first_eval["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert result.last_train["loss"] < 0.6
    opened = load_vlm(tiny_llava_folder, adapter=tmp_path / "run" / "adapter")
    assert isinstance(opened.model, PeftModel) and opened.dtype == torch.float32
