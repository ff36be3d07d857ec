"""Where the adapter goes, and that it opens elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from torch import nn

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.folder import weights
from mmpo.preflight.training import check_weights
from mmpo.trainers.lora import add_lora
from mmpo.trainers.settings import LoraSettings, TrainSettings
from tests.tiny import save_tiny_llava, tiny_llava


def adapted(vlm: VLM) -> set[str]:
    return {
        n.split(".lora_A")[0].removeprefix("base_model.model.")
        for n, _ in vlm.model.named_modules()
        if n.endswith("lora_A")
    }


def test_by_default_every_linear_layer_of_the_language_model_and_nothing_else(vlm: VLM) -> None:
    linear = {n for n, m in vlm.model.named_modules() if isinstance(m, nn.Linear) and "language_model" in n}
    trained = add_lora(vlm, LoraSettings(rank=3))
    assert adapted(trained) == linear and len(linear) == 14
    names = [n for n, p in trained.model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    config = trained.model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 6, 0.0)


def test_targets_by_name_and_by_pattern(vlm: VLM) -> None:
    some = adapted(add_lora(vlm, LoraSettings(targets=["q_proj", "v_proj"], alpha=5)))
    assert {name.rpartition(".")[2] for name in some} == {"q_proj", "v_proj"} and len(some) == 4
    tower = adapted(add_lora(tiny_llava(), LoraSettings(targets=r".*vision_tower.*\.(q|v)_proj")))
    assert tower and all("vision_tower" in name for name in tower)
    both = adapted(add_lora(tiny_llava(), LoraSettings(targets="all")))
    assert {part for part in ("vision_tower", "projector", "language_model") if any(part in name for name in both)} == {
        "vision_tower", "projector", "language_model",
    }  # fmt: skip
    assert not any("lm_head" in name for name in both)


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        (["q_proj", "qproj"], "no linear layer qproj"),
        ("nothing_like_this", "matches no linear layer"),
        (r"lm_head", "head can't be adapted"),
        (r".*language_model.*", "language_model, which is no linear layer"),
    ],
)
def test_wrong_targets_are_named(vlm: VLM, targets: str | list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        add_lora(vlm, LoraSettings(targets=targets))


def test_a_second_adapter_is_refused(vlm: VLM) -> None:
    with pytest.raises(UserError, match="carries an adapter already"):
        add_lora(add_lora(vlm, LoraSettings()), LoraSettings())


def test_the_adapter_is_float32_on_a_bfloat16_model(tiny_llava_folder: Path) -> None:
    vlm = add_lora(load_vlm(tiny_llava_folder, dtype="bfloat16"), LoraSettings())
    assert vlm.dtype == torch.bfloat16
    assert {p.dtype for p in vlm.model.parameters() if p.requires_grad} == {torch.float32}


def test_a_saved_adapter_opens_with_peft(vlm: VLM, tmp_path: Path) -> None:
    trained = add_lora(vlm, LoraSettings(rank=2))
    for name, parameter in trained.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    trained.model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_llava().model, tmp_path)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, trained.model(input_ids=ids).logits)


@pytest.mark.parametrize("targets", ["language_model", "all", ["q_proj"], r".*vision_tower.*\.(q|v)_proj"])
def test_preflight_counts_the_room_of_the_adapter(tmp_path: Path, targets: str | list[str]) -> None:
    """The least that a run will write: the adapter, in float32, and a checkpoint of it with two moments."""
    folder = save_tiny_llava(tmp_path / "model")
    settings = TrainSettings.model_validate({"model": str(folder), "pairs": tmp_path, "lora": {"targets": targets}})
    context = SimpleNamespace(bytes={}, warn=lambda *said: None)
    check_weights(context, settings, weights(folder, str(folder)))  # type: ignore[arg-type]
    trained = add_lora(load_vlm(str(folder)), settings.lora)
    numbers = sum(p.numel() for p in trained.model.parameters() if p.requires_grad)
    assert context.bytes["train"][0] == 4 * 4 * numbers
