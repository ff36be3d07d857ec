"""The trainer's arithmetic: exact losses and gradients however a step is cut, exact averages, a stop at NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.preference import PreferenceTrainer
from tests.tiny import add_lora, tiny_llava
from tests.trainers.material import make_pairs

# Two terms with different weights per pair: dividing each micro-batch by itself would give another loss.
OBJECTIVE = {"dpo": {"beta": 0.2}, "sft": {"weight": 0.5, "per": "token"}}


class Stop(TrainerCallback):
    """Keep the gradients of the first step and end there."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in self.vlm.model.named_parameters() if p.grad is not None}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_training_stop = control.should_log = True
        return control


def make_trainer(
    folder: Path,
    *,
    n: int = 8,
    spread: float = 0.1,
    objective: dict[str, Any] | None = None,
    callbacks: Callable[[VLM], list[TrainerCallback]] = lambda vlm: [],
    samples: Callable[[VLM], Any] = lambda vlm: None,
    groups: Callable[[VLM], Any] = lambda vlm: None,
    tokens: int | None = None,
    **arguments: Any,
) -> PreferenceTrainer:
    vlm = add_lora(tiny_llava(), spread=spread)
    store = ImageStore(vlm, 2**24)
    pairs = encode_pairs(vlm, make_pairs(n), store)
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return PreferenceTrainer(
        PairScorer(vlm),
        TrainingArguments(**(defaults | arguments)),
        objective=build_objective(objective or OBJECTIVE),
        collator=PairCollator(store),
        train_dataset=pairs,
        eval_dataset=pairs,
        tokens_per_batch=tokens,
        samples=samples(vlm),
        groups=groups(vlm),
        callbacks=callbacks(vlm),
    )


def first_step(folder: Path, **arguments: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    stops: list[Stop] = []

    def callbacks(vlm: VLM) -> list[TrainerCallback]:
        stops.append(Stop(vlm))
        return [stops[0]]

    trainer = make_trainer(folder, callbacks=callbacks, **arguments)
    trainer.train()
    return stops[0].gradients, next(row for row in trainer.state.log_history if "loss" in row)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 4), (2, 2)])
def test_accumulation_changes_nothing(tmp_path: Path, batch_size: int, accumulation: int) -> None:
    whole, whole_log = first_step(tmp_path)
    cut, cut_log = first_step(
        tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
    )
    assert whole.keys() == cut.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)
    for name in ("loss", "loss/dpo", "loss/sft", "grad_norm", "rewards/margins", "logps/chosen", "mean_token_accuracy"):
        # margins are small differences of sums of many nats, in float32
        assert cut_log[name] == pytest.approx(whole_log[name], rel=1e-5, abs=1e-5), name


def test_the_step_is_the_plain_loss_of_its_pairs(tmp_path: Path) -> None:
    gradients, log = first_step(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer = make_trainer(tmp_path)
    rows = [trainer.pairs[i] for i in trainer.schedule.steps[0][0]]
    loss = trainer.objective.loss(trainer.scorer(**trainer.data_collator(rows)))
    loss.backward()
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in trainer.scorer.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_evaluation_is_exact_for_any_batch_size(tmp_path: Path) -> None:
    found = [make_trainer(tmp_path, per_device_eval_batch_size=size).evaluate() for size in (1, 3, 8)]
    found.append(make_trainer(tmp_path, per_device_eval_batch_size=8, tokens=400).evaluate())
    assert found[0]["eval_loss"] != pytest.approx(0.6931, abs=1e-3)
    for metrics in found[1:]:
        for name in set(found[0]) - {"eval_runtime"}:
            # Rewards are small differences of log-probs in the hundreds.
            assert metrics[name] == pytest.approx(found[0][name], rel=1e-5, abs=5e-6), name
    names = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    )
    assert {f"eval_{name}" for name in names} <= set(found[0])


def test_a_logging_window_is_the_average_over_its_pairs(tmp_path: Path) -> None:
    lines = [
        [row for row in trainer.state.log_history if "loss" in row]
        for steps in (1, 2)
        if (trainer := make_trainer(tmp_path, n=8, logging_steps=steps, max_steps=2)).train()
    ]
    (first, second), (both,) = lines
    for name in ("loss", "rewards/margins", "logps/chosen"):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-5), name


def test_training_starts_at_log_2_and_learns(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, spread=0.0, objective={"dpo": {}}, num_train_epochs=6)
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(0.693147, abs=1e-6)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5
    assert trainer.state.epoch == 6.0


def test_a_loss_that_is_not_finite_stops_and_names_the_pairs(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    broken = next(row for row in trainer.pairs.rows if row.id == "pair-5").images[0]
    trainer.data_collator.store.prepared(broken).tensors["pixel_values"].fill_(float("nan"))
    with pytest.raises(UserError, match=r"step \d: the loss is not finite") as caught:
        trainer.train()
    named = caught.value.message.partition("for the pairs ")[2].split(", ")
    assert named and set(named) <= {"pair-4", "pair-5"}  # the two that show this image
    assert all(torch.isfinite(p).all() for p in trainer.scorer.model.parameters())


def test_a_gradient_that_is_not_finite_stops(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_grad_norm=1.0)
    parameter = next(p for n, p in trainer.scorer.model.named_parameters() if "lora_B" in n)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="step 1: the gradient is not finite"):
        trainer.train()


def test_the_batch_decodes_each_image_once(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = trainer.data_collator([trainer.pairs[i] for i in (0, 1, 2)])["batch"]
    assert batch.image_inputs["pixel_values"].shape[0] == 2
    assert batch.image_index == [[0], [0], [1]]


def test_evaluating_without_pairs_is_said(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.eval_pairs = None
    with pytest.raises(UserError, match="no pairs to evaluate"):
        trainer.evaluate()


def test_a_model_without_adapter_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.scorer.model = trainer.scorer.model.get_base_model()
    with pytest.raises(UserError, match="no adapter"):
        trainer.save_model(str(tmp_path / "out"))
