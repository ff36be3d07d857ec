"""Regularizers in the trainer: the step's gradient however it is cut, the same random numbers in every pass, exact
resuming, nothing where they are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import Trainer

from mmpo.errors import UserError
from mmpo.models.scoring.divergence import token_kl
from mmpo.trainers.preference import PreferenceTrainer
from mmpo.trainers.regularizers.engine import Regularization
from mmpo.trainers.regularizers.past import softened_kl
from mmpo.trainers.regularizers.settings import RegularizerSettings
from tests.trainers.test_preference import make_trainer

DPO = {"dpo": {"beta": 0.2}}
SLOW: list[dict[str, Any]] = [{"awp": {}}, {"fad": {}}, {"gam": {}}, {"lora_ggpo": {"momentum": 0.9}}]


def regularized(folder: Path, chosen: dict[str, Any], **arguments: Any) -> PreferenceTrainer:
    """A trainer with plain gradient descent, in which a rounding error stays one."""
    defaults: dict[str, Any] = {"objective": DPO, "optim": "sgd", "max_steps": 2, "learning_rate": 1e-2}
    trainer = make_trainer(folder, **(defaults | arguments))
    trainer.regularize(RegularizerSettings.model_validate(chosen))
    return trainer


def weights(trainer: PreferenceTrainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.scorer.named_parameters() if p.requires_grad}


def losses(trainer: PreferenceTrainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_off_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = regularized(tmp_path, {}, optim="adamw_torch")
    assert off._regularization is None
    off.train()
    monkeypatch.setattr(PreferenceTrainer, "training_step", Trainer.training_step)
    before = regularized(tmp_path, {}, optim="adamw_torch")
    before.train()
    assert same(weights(off), weights(before)) and losses(off) == losses(before)


def test_sam_takes_the_gradient_a_step_uphill_and_restores_the_weights(tmp_path: Path) -> None:
    trainer = regularized(tmp_path, {"sam": {"rho": 0.5}}, max_steps=1, lr_scheduler_type="constant")
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)

    plain = regularized(tmp_path, {})
    collate: Any = plain.data_collator
    batch = collate([plain.pairs[i] for i in plain.schedule.steps[0][0]])
    named = {name: p for name, p in plain.scorer.named_parameters() if p.requires_grad}

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(plain.objective.loss(plain.scorer.train()(**batch)), list(named.values())))

    first = gradient()
    length = torch.cat([g.flatten() for g in first]).norm()
    for parameter, g in zip(named.values(), first, strict=True):
        parameter.data.add_(0.5 * g / length)
    for (name, was), g in zip(before.items(), gradient(), strict=True):
        torch.testing.assert_close(after[name], was - 1e-2 * g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "chosen",
    [
        {"sam": {"rho": 0.1}, "mesa": {"decay": 0.5}, "pego": {}},
        pytest.param({"rwp": {"threshold": 5.0, "steps": 2}}, marks=pytest.mark.slow),
        pytest.param({"flat_lora": {}, "saf": {"epochs": 0.5}}, marks=pytest.mark.slow),
        *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW),
    ],
    ids=lambda chosen: "-".join(chosen),
)
def test_accumulation_changes_nothing(chosen: dict[str, Any], tmp_path: Path) -> None:
    whole, cut = (
        regularized(tmp_path, chosen, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size)
        for size in (4, 1)
    )
    plain = regularized(tmp_path, {})
    start = weights(plain)
    for trainer in (whole, cut, plain):
        trainer.train()
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-4)
    moved = max((value - start[name]).abs().max().item() for name, value in weights(plain).items())
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=1e-3, atol=2e-3 * moved)
    assert not same(weights(whole), weights(plain))


def with_dropout(trainer: PreferenceTrainer) -> PreferenceTrainer:
    for module in trainer.scorer.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = nn.Dropout(0.3)
    return trainer


def test_all_passes_have_the_same_random_numbers(tmp_path: Path) -> None:
    found = []
    for chosen in ({}, {"sam": {"rho": 1e-20}}):
        trainer = with_dropout(
            regularized(tmp_path, chosen, per_device_train_batch_size=2, gradient_accumulation_steps=2)
        )
        torch.manual_seed(5)
        trainer.train()
        found.append((weights(trainer), losses(trainer), torch.get_rng_state()))
    (plain, loss, state), (own, own_loss, own_state) = found
    assert same(plain, own) and loss == own_loss and torch.equal(state, own_state)


@pytest.mark.parametrize(
    "chosen",
    [
        {"lora_ggpo": {"sigma": 0.1, "momentum": 0.9}, "mesa": {"decay": 0.5}, "multi_sample_dropout": {"samples": 2}},
        {"sam": {}, "saf": {"epochs": 0.5}},
    ],
    ids=lambda chosen: "-".join(chosen),
)
def test_a_resumed_run_ends_at_the_same_weights(chosen: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    whole = regularized(tmp_path / "run", chosen, **arguments)
    whole.train()
    resumed = regularized(tmp_path / "run", chosen, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same(weights(whole), weights(resumed)) and losses(resumed) == losses(whole)

    (tmp_path / "run" / "checkpoint-2" / "regularizers.safetensors").unlink()
    with pytest.raises(UserError, match="holds nothing of the regularizers"):
        assert resumed._regularization is not None
        resumed._regularization.load(tmp_path / "run" / "checkpoint-2")


def test_mesa_costs_nothing_until_the_adapter_has_moved(tmp_path: Path) -> None:
    trainer = regularized(tmp_path, {"mesa": {"decay": 0.9}})
    trainer.train()
    rows = [row["loss/mesa"] for row in trainer.state.log_history if "loss" in row]
    assert rows[0] == pytest.approx(0.0, abs=1e-6) and min(rows[1:]) > 1e-6


def test_dropout_masks_are_shared_by_policy_and_reference(tmp_path: Path) -> None:
    trainer = regularized(tmp_path, {"multi_sample_dropout": {"samples": 3, "p": 0.5}}, spread=0.0, max_steps=2)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0.693147, abs=1e-6)
    assert losses(trainer)[1] != pytest.approx(0.693147, abs=1e-5)
    assert trainer._regularization is not None and trainer._regularization.dropout is not None
    hook = trainer._regularization.dropout
    states = torch.ones(400, 50)
    seen = []
    for mask in range(2):
        hook.mask = (0, 0, 0, mask)
        seen.append(hook.dropped(states))
        assert torch.equal(hook.dropped(states), seen[-1])
    assert set(seen[0].unique().tolist()) == {0.0, 2.0} and not torch.equal(*seen)
    assert seen[0].mean().item() == pytest.approx(1.0, abs=0.05)


def test_sharded_weights_and_short_runs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="it starts after 5 epochs"):
        regularized(tmp_path, {"saf": {}})
    trainer = regularized(tmp_path, {})
    trainer.is_fsdp_enabled = True
    with pytest.raises(UserError, match=r"regularizers \(sam\) need whole weights"):
        Regularization(RegularizerSettings.model_validate({"sam": {}}), trainer)


def test_dropout_on_cached_log_probs_is_refused(tmp_path: Path) -> None:
    trainer = regularized(tmp_path, {})
    trainer.scorer.cached = True
    with pytest.raises(UserError, match="cached log-probs have none"):
        Regularization(RegularizerSettings.model_validate({"multi_sample_dropout": {}}), trainer)


@pytest.mark.parametrize("bias", [False, True])
def test_softened_divergence(bias: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=bias).double()
    policy, past = (torch.randn(7, 6, dtype=torch.float64) for _ in range(2))
    policy.requires_grad_()
    head.requires_grad_(False)
    p, q = (torch.log_softmax(head(states) / 3.0, -1) for states in (policy, past))
    expected = (q.exp() * (q - p)).sum(-1)
    found = softened_kl(policy, past, head, 3.0, chunk=2)
    torch.testing.assert_close(found, expected)
    own = torch.autograd.grad(found.sum(), policy)[0]
    torch.testing.assert_close(own, torch.autograd.grad(expected.sum(), policy)[0])
    torch.testing.assert_close(softened_kl(policy, past, head, 1.0), token_kl(policy, past, head))

    soft = [torch.log_softmax(4 * torch.tanh(head(states) / 4) / 3.0, -1) for states in (policy, past)]
    capped = softened_kl(policy, past, head, 3.0, softcap=4.0)
    torch.testing.assert_close(capped, (soft[1].exp() * (soft[1] - soft[0])).sum(-1))
