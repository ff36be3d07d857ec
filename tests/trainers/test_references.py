"""References other than the base: what is compared with, what is kept, what is saved."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmpo.data.shards import read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, load_beside, load_vlm
from mmpo.models.scoring.references import FrozenAdapter
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.objectives.scoring import scoring_options
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.fitting import objective_problems
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.moving import FILE, MovingReference
from mmpo.trainers.reference import ReferenceLogps, cached_reference, reference_identity, with_reference
from mmpo.trainers.reference_settings import MovingReferenceSettings, OtherReferenceSettings
from mmpo.trainers.references import FixedReference, check_same_inputs
from mmpo.trainers.settings import LoraSettings
from mmpo.trainers.train import train
from mmpo.types import ScoringOptions
from tests.tiny import save_tiny_llava
from tests.trainers.material import settings_for, write_pairs

Q = ["q_proj", "v_proj"]


def tuned(folder: Path, seed: int = 0, rank: int = 2, targets: Any = "language_model", spread: float = 0.2) -> VLM:
    """The model with an adapter that does something."""
    torch.manual_seed(seed)
    vlm = add_lora(load_vlm(folder), LoraSettings(rank=rank, targets=targets))
    for name, weight in vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=spread)
    return vlm


def saved(vlm: VLM, folder: Path) -> Path:
    vlm.model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def guide(tiny_llava_folder: Path, tmp_path: Path) -> Path:
    return saved(tuned(tiny_llava_folder, 7, rank=3), tmp_path / "guide")


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", 8)


def encoded(vlm: VLM, folder: Path) -> tuple[EncodedPairs, ImageStore]:
    store = ImageStore(vlm, 1 << 26)
    return encode_pairs(vlm, read_pairs(folder), store, root=folder), store


# ---- adapters


@pytest.mark.parametrize("targets", ["language_model", Q])
def test_an_adapter_as_reference_is_scoring_with_that_adapter(
    tiny_llava_folder: Path, guide: Path, pairs_folder: Path, targets: Any
) -> None:
    """The policy may adapt other layers than its guide, and must not see it."""
    vlm = tuned(tiny_llava_folder, targets=targets)
    rows, store = encoded(vlm, pairs_folder)
    batch = PairCollator(store)(rows.rows)["batch"]
    before = PairScorer(tuned(tiny_llava_folder, targets=targets))(batch)
    trainable = {name for name, p in vlm.model.named_parameters() if p.requires_grad}
    load_beside(vlm, guide, "reference")
    assert {name for name, p in vlm.model.named_parameters() if p.requires_grad} == trainable
    vlm.model.train()
    scored = PairScorer(vlm, reference=FrozenAdapter("reference"), second=FrozenAdapter("reference"))(batch)
    alone = load_vlm(tiny_llava_folder)
    expected = PairScorer(replace(alone, model=PeftModel.from_pretrained(alone.model, guide)), reference="none")(batch)
    torch.testing.assert_close(scored.chosen.reference, expected.chosen.policy, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.rejected.read("second_reference"), expected.rejected.policy, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.chosen.policy, before.chosen.policy, atol=1e-6, rtol=0)
    after = PairScorer(vlm)(batch)
    torch.testing.assert_close(after.chosen.reference, before.chosen.reference, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="no adapter 'nosuch'"), vlm.adapter_of("nosuch"):
        pass


def test_dropout_of_a_reference_is_out(tiny_llava_folder: Path, tmp_path: Path, pairs_folder: Path) -> None:
    wet = add_lora(load_vlm(tiny_llava_folder), LoraSettings(rank=2, dropout=0.5))
    torch.nn.init.normal_(next(p for n, p in wet.model.named_parameters() if "lora_B" in n))
    vlm = tuned(tiny_llava_folder)
    load_beside(vlm, saved(wet, tmp_path / "wet"), "reference")
    rows, store = encoded(vlm, pairs_folder)
    scorer = PairScorer(vlm, reference=FrozenAdapter("reference")).train()
    batch = PairCollator(store)(rows.rows[:2])["batch"]
    assert torch.equal(scorer(batch).chosen.reference, scorer(batch).chosen.reference)


def test_adapters_that_do_not_go_beside_another_are_refused(
    tiny_llava_folder: Path, guide: Path, tmp_path: Path
) -> None:
    vlm = tuned(tiny_llava_folder)
    config = (guide / "adapter_config.json").read_text()
    (guide / "adapter_config.json").write_text(config.replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(UserError, match="bias, and only LoRA matrices"):
        load_beside(vlm, guide, "reference")
    wide = load_vlm(save_tiny_llava(tmp_path / "wide", text={"hidden_size": 96}))
    torch.manual_seed(0)
    with pytest.raises(UserError, match="trained on another model"):
        load_beside(vlm, saved(add_lora(wide, LoraSettings(rank=2)), tmp_path / "other"), "reference")


# ---- kept log-probs


def test_kept_log_probs_are_those_of_the_live_reference(
    tiny_llava_folder: Path, guide: Path, pairs_folder: Path
) -> None:
    vlm = tuned(tiny_llava_folder)
    rows, store = encoded(vlm, pairs_folder)
    parent = pairs_folder / "reference"
    reference = FixedReference("reference", OtherReferenceSettings(adapter=str(guide)), load_vlm)
    second = FixedReference("second_reference", OtherReferenceSettings(model=str(tiny_llava_folder)), load_vlm)
    reference.put_on(vlm)
    live = PairScorer(vlm, reference=reference.network, second=second.network)
    batches = [list(range(len(rows)))]
    for one, name in ((None, "reference"), (reference, "reference"), (second, "second_reference")):
        cached_reference(vlm, rows, store, parent, batches, reference=one)
        rows = with_reference(rows, ReferenceLogps.open(parent, vlm, one), store, name)  # type: ignore[arg-type]
    assert len({reference_identity(vlm, one) for one in (None, reference, second)}) == len(list(parent.iterdir())) == 3
    second.release()
    kept = PairScorer(vlm, reference="cached", second="cached", reads=("second_reference",))
    batch = PairCollator(store)(rows.rows)["batch"].to("cpu")
    found, expected = kept(batch), live(batch)
    for ours, theirs in ((found.chosen, expected.chosen), (found.rejected, expected.rejected)):
        torch.testing.assert_close(ours.reference, theirs.reference, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.read("second_reference"), theirs.read("second_reference"), atol=1e-5, rtol=0)
    before = reference_identity(vlm, reference)
    weights = load_file(guide / "adapter_model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, guide / "adapter_model.safetensors", {"format": "pt"})
    assert reference_identity(vlm, reference) != before


def test_a_second_model_must_read_what_is_prepared_for_the_first(tiny_llava_folder: Path) -> None:
    vlm, other = load_vlm(tiny_llava_folder), load_vlm(tiny_llava_folder)
    check_same_inputs(vlm, other)
    other.processor.image_processor.do_normalize = not other.processor.image_processor.do_normalize
    with pytest.raises(UserError, match="prepare images differently"):
        check_same_inputs(vlm, other)
    other.tokenizer.add_tokens(["more"])
    with pytest.raises(UserError, match="different tokens"):
        check_same_inputs(vlm, other)


# ---- a moving reference


def updates(vlm: VLM, name: str) -> dict[str, Tensor]:
    """What the adapter adds to each adapted weight."""
    return {
        at: layer.scaling[name] * layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
        for at, layer in vlm.model.named_modules()
        if name in getattr(layer, "lora_A", {})
    }


@pytest.mark.parametrize("mix", [0.6, 0.9, 1.0])
def test_a_moving_reference_follows_the_formula(tiny_llava_folder: Path, tmp_path: Path, mix: float) -> None:
    vlm = tuned(tiny_llava_folder)
    moving = MovingReference(vlm, "reference", MovingReferenceSettings(mix=mix, every=2))
    expected = updates(vlm, "reference")
    assert all(not update.any() for update in expected.values())
    for step in range(1, 25):
        with torch.no_grad():
            for name, weight in vlm.model.named_parameters():
                if ".default." in name:
                    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)), alpha=0.1)
        moving.after_step(step)
        if step % 2 == 0:
            policy = updates(vlm, "default")
            expected = {at: mix * policy[at] + (1 - mix) * expected[at] for at in policy}
        for at, update in updates(vlm, "reference").items():
            torch.testing.assert_close(update, expected[at], atol=1e-5, rtol=1e-4)
    layers = [module for module in vlm.model.modules() if isinstance(module, LoraLayer)]
    ranks = {layer.r["reference"] for layer in layers}
    assert max(ranks) <= (2 if mix == 1 else 40), "policies that have faded are let go"
    moving.save(tmp_path)
    other = MovingReference(again := tuned(tiny_llava_folder), "reference", moving.settings)
    other.load(tmp_path)
    assert all(torch.equal(update, updates(vlm, "reference")[at]) for at, update in updates(again, "reference").items())
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match="no moving reference"):
        other.load(tmp_path)


def test_a_moving_reference_is_the_reference_that_is_scored(tiny_llava_folder: Path, pairs_folder: Path) -> None:
    vlm = tuned(tiny_llava_folder)
    moving = MovingReference(vlm, "reference", MovingReferenceSettings(mix=1, every=1))
    scorer = PairScorer(vlm, reference=FrozenAdapter("reference"))
    rows, store = encoded(vlm, pairs_folder)
    batch = PairCollator(store)(rows.rows[:3])["batch"]
    start = scorer(batch).chosen
    torch.testing.assert_close(start.reference, PairScorer(vlm)(batch).chosen.reference, atol=1e-6, rtol=0)
    moving.after_step(1)
    torch.testing.assert_close(scorer(batch).chosen.reference, start.policy.detach(), atol=1e-5, rtol=0)


# ---- runs


def run(model: Path, pairs: Path, out: Path, **values: Any) -> dict[str, Tensor]:
    settings = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "batch_size": 3, **values}
    train(settings_for(model, pairs, **settings), out)
    return load_file(out / "adapter" / "adapter_model.safetensors")


def test_a_guided_run_starts_off_log_2_and_keeps_the_guide_to_itself(
    tiny_llava_folder: Path, guide: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"reference": {"adapter": str(guide)}}
    weights = run(tiny_llava_folder, pairs_folder, tmp_path / "live", **values)
    kept = run(tiny_llava_folder, pairs_folder, tmp_path / "kept", cache_reference=True, **values)
    plain = run(tiny_llava_folder, pairs_folder, tmp_path / "plain", **values | {"reference": "base"})
    assert weights.keys() == kept.keys() == plain.keys() and not any("reference" in name for name in weights)
    assert all(torch.allclose(weights[name], kept[name], atol=1e-5) for name in weights)
    for folder in (tmp_path / "live" / "adapter", tmp_path / "live" / "checkpoints" / "checkpoint-4"):
        assert not [path for path in folder.iterdir() if path.is_dir()]
    first = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("live", "plain")]
    assert first[1]["eval_loss"] == pytest.approx(math.log(2)) and first[0]["eval_loss"] != first[1]["eval_loss"]
    assert first[0]["eval_rewards/chosen"] != 0 == first[1]["eval_rewards/chosen"]


@pytest.mark.parametrize("mix", [0.6, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_run_with_a_moving_reference_goes_on_exactly(
    tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path, mix: float
) -> None:
    values = {"reference": {"moving": {"mix": mix, "every": 1}}}
    whole = run(tiny_llava_folder, pairs_folder, tmp_path / "whole", **values)
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole", part)
    for left in ("checkpoints/checkpoint-4", "adapter"):
        shutil.rmtree(part / left)
    (part / "train_result.json").unlink()
    again = run(tiny_llava_folder, pairs_folder, part, **values)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    files = [folder / "checkpoints" / "checkpoint-4" / FILE for folder in (tmp_path / "whole", part)]
    first, second = map(load_file, files)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    plain = run(tiny_llava_folder, pairs_folder, tmp_path / "plain")
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)


def test_a_run_with_two_references(tiny_llava_folder: Path, guide: Path, pairs_folder: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "objective": {"mrpo": {"beta": 0.1}}, "references": {"second": {"adapter": str(guide)}}, "max_steps": 2,
    }  # fmt: skip
    live = run(tiny_llava_folder, pairs_folder, tmp_path / "live", **values)
    kept = run(tiny_llava_folder, pairs_folder, tmp_path / "kept", cache_reference=True, **values)
    assert all(torch.allclose(live[name], kept[name], atol=1e-5) for name in live)


# ---- what does not go together


def problems(**values: Any) -> list[tuple[str, str]]:
    settings = settings_for(Path("model"), Path("pairs"), **values)
    return [(key, message) for key, message, _ in objective_problems(settings, build_objective(settings.objective))]


def test_references_that_do_not_fit_the_objective_are_refused_before_work() -> None:
    second = {"second": {"adapter": "there"}}
    assert problems(objective={"mrpo": {}}, references=second) == []
    assert problems(reference={"adapter": "there"}) == problems(reference="base") == []
    for values, key, message in (
        ({"references": second}, "references", "no effect"),
        ({"objective": {"mrpo": {}}}, "references", "none is named"),
        ({"objective": {"simpo": {}}, "reference": {"adapter": "there"}}, "reference", "no effect"),
        ({"reference": {"moving": {}}, "cache_reference": True}, "cache_reference", "moving reference changes"),
    ):
        ((found, told),) = problems(**values)
        assert found == key and message in told, values
    assert settings_for(Path("m"), Path("p"), reference={"moving": {"alpha": 0.5}}).reference.moving.mix == 0.5
    for wrong in ({}, {"adapter": "a", "model": "b"}, {"moving": {"mix": 0}}, {"moving": {"every": 0}}):
        with pytest.raises(ValueError, match="reference"):
            problems(reference=wrong)


def test_scoring_takes_its_numbers_from_the_losses() -> None:
    assert scoring_options(build_objective("dpo")) == ScoringOptions()
    both = build_objective({"ra_dpo": {"mu": 0.9}, "gdpo": {"gamma": 0.2}})
    assert scoring_options(both) == ScoringOptions(tail=0.9, eos_temperature=0.2)
    moved = build_objective({"ra_dpo": {"mu": {"from": 0.9, "to": 0.8}}})
    with pytest.raises(UserError, match="the same in all steps"):
        scoring_options(moved)
