"""Losses in which the pairs of a step depend on each other: how the step is cut changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.trainers.step import StepRules, gather_step
from mmpo.trainers.train import train
from mmpo.types import StepStatistics
from tests.trainers.material import settings_for, write_pairs
from tests.trainers.test_processes import launch

STEPWISE: list[Any] = [
    {"aot": {"beta": 0.2}},
    pytest.param({"aot": {"beta": 0.2, "paired": False}}, marks=pytest.mark.slow),
    pytest.param({"kto_pair": {"beta": 0.3}}, marks=pytest.mark.slow),
    pytest.param({"bco_pair": {"beta": 0.2, "delta": "running"}}, marks=pytest.mark.slow),
    {"mpo": {"beta": 0.2, "delta": "running"}, "aot": {"weight": 0.5}},
    {"beta_dpo": {"beta": {"from": 0.2, "to": 0.5}, "keep": 0.5}, "gamma_po": {"queue": 6}},
]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def same(one: Path, two: Path, rel: float = 1e-4) -> None:
    for a, b in zip(metrics(one), metrics(two), strict=True):
        for name in set(a) - {"seconds", "pairs_per_second", "eval_runtime"}:
            assert b[name] == pytest.approx(a[name], rel=rel, abs=1e-5), (a["step"], name)
    weights = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("objective", STEPWISE, ids=lambda o: "+".join(o) + str(next(iter(o.values()))))
def test_accumulation_changes_nothing(tiny_llava_folder: Path, tmp_path: Path, objective: dict[str, Any]) -> None:
    pairs = write_pairs(tmp_path / "pairs", 22)
    common: Any = {"objective": objective, "max_steps": 3, "logging_steps": 1, "eval_steps": 3, "save_steps": None}
    train(settings_for(tiny_llava_folder, pairs, batch_size=8, **common), tmp_path / "whole")
    train(settings_for(tiny_llava_folder, pairs, batch_size=2, accumulation=4, **common), tmp_path / "cut")
    same(tmp_path / "whole", tmp_path / "cut")


def test_the_running_mean_counts_the_current_step(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """BCO's delta is the mean of the rewards so far, this step's among them. In the first step all log-ratios are 0, so
    it is the second that tells."""
    pairs = write_pairs(tmp_path / "pairs", 8)
    common: Any = {"max_steps": 2, "batch_size": 8, "eval_fraction": 0, "logging_steps": 1, "warmup": 0}
    train(
        settings_for(tiny_llava_folder, pairs, objective={"bco_pair": {"beta": 1.0, "delta": "running"}}, **common),
        tmp_path / "run",
    )
    rows = [row for row in metrics(tmp_path / "run") if "loss" in row]
    metadata = json.loads((tmp_path / "run/checkpoints/checkpoint-2/complete.json").read_text())
    state = metadata["states"]["bco_pair"]
    second = rows[1]["rewards/chosen"] + rows[1]["rewards/rejected"]
    assert state["log_ratio_count"] == 32 and abs(second) > 0.01
    assert 32 * state["log_ratio_mean"] == pytest.approx(8 * second, rel=1e-4)


def test_states_come_back_from_json_to_the_last_bit() -> None:
    objective = build_objective({"bco_pair": {"delta": "running"}, "gamma_po": {"queue": 3}, "dpo": {}})
    rules = StepRules(objective, seed=0)
    assert rules.states["gamma_po"]["queue"].shape == (0,)
    values = {name: torch.randn(4) / 3 for name in ("W", "L", "Wr", "Lr", "W~", "L~")}
    rules.look(objective, [StepStatistics(values)], 1, training=True)
    before = rules.as_json()
    rules.look(objective, [StepStatistics(values)], 2, training=False)
    assert rules.as_json() == before, "evaluation leaves them"
    again = StepRules(objective, seed=0, saved=json.loads(json.dumps(before)))
    for loss, state in rules.states.items():
        for name, value in state.items():
            assert torch.equal(again.states[loss][name], value) and value.dtype == torch.float64
    assert again.states["gamma_po"]["queue"].shape == (3,)
    with pytest.raises(UserError, match="lacks what the objective remembers"):
        StepRules(objective, seed=0, saved={"bco_pair": before["bco_pair"]})


def test_draws_are_those_of_the_step() -> None:
    """The same step draws the same pairs, another step or seed others."""
    objective = build_objective({"beta_dpo": {"keep": 0.5}})
    step = StepStatistics({name: torch.zeros(64) for name in ("W", "L", "Wr", "Lr")})

    def kept(seed: int, number: int) -> list[float]:
        (looked,) = StepRules(objective, seed).look(objective, [step], number, training=True)
        return looked.found["beta_dpo"]["kept"].tolist()

    assert sum(kept(0, 1)) == 32 and kept(0, 1) == kept(0, 1)
    assert len({tuple(kept(*at)) for at in ((0, 1), (0, 2), (1, 1), (1, 0))}) == 4


def test_the_order_is_that_of_the_step() -> None:
    own = [{"W": torch.tensor([1.0, 2.0])}, {"W": torch.zeros(0)}, {"W": torch.tensor([3.0])}]
    found = gather_step(own, Accelerator(cpu=True))
    assert [step.values["W"][step.own].tolist() for step in found] == [[1.0, 2.0], [], [3.0]]
    assert found[0].values["W"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.slow
def test_two_processes_change_nothing(tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder,
        write_pairs(tmp_path / "pairs", 22),
        objective={
            "mpo": {"beta": 0.2, "delta": "running"},
            "aot": {"beta": 0.2, "paired": False},
            "kto_pair": {},
            "beta_dpo": {"keep": 0.5, "weight": {"from": 1.0, "to": 0.2}},
            "gamma_po": {"queue": 9},
        },
        batch_size=2,
        accumulation=2,
        max_steps=3,
        logging_steps=1,
        eval_steps=3,
    )
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    launch(tmp_path / "settings.json", tmp_path / "two")
    train(settings.model_copy(update={"batch_size": 8, "accumulation": 1}), tmp_path / "one")
    same(tmp_path / "one", tmp_path / "two", rel=1e-3)


def test_evaluation_reads_what_training_remembers_and_does_not_move_it() -> None:
    spec = {
        "bco_pair": {"delta": "running"}, "mpo": {"delta": "running"}, "beta_dpo": {"a": 0.5}, "dama": {},
        "gamma_po": {"queue": 8},
    }  # fmt: skip
    objective = build_objective(spec)

    def step(shift: float, n: int = 6) -> StepStatistics:
        values = {name: torch.arange(n).double() / 10 for name in ("W", "L", "Wr", "Lr", "W~", "L~")}
        more = {"W": values["W"] + shift, "W~": values["W~"] + shift, "score_gap": torch.full((n,), 0.3).double()}
        return StepStatistics(values | more)

    rules = StepRules(objective, seed=0)
    (before,) = rules.look(objective, [step(5.0)], 0, training=False)
    assert before.found["bco_pair"]["log_ratio_mean"] == 0.0, "nothing was trained on"
    rules.look(objective, [step(2.0)], 1, training=True)
    left = rules.as_json()
    assert left["bco_pair"] == {"log_ratio_mean": pytest.approx(1.0), "log_ratio_count": 12.0}
    for shift in (7.0, -3.0):
        (found,) = rules.look(objective, [step(shift)], 0, training=False)
        for loss in ("bco_pair", "mpo"):
            assert found.found[loss]["log_ratio_mean"].item() == pytest.approx(1.0)
        # M = 0.1 * 2 after one step of D = 2, whose deviation is 0: all weigh 1
        beta = 0.1 * (1 + 0.5 * (shift - 0.2))
        assert found.found["beta_dpo"]["beta"].item() == pytest.approx(max(beta, 1e-3))
        assert rules.as_json() == left
    (alone,) = StepRules(objective, seed=0).look(objective, [step(7.0)], 0, training=False)
    (after,) = rules.look(objective, [step(7.0)], 0, training=False)
    for loss, name in (("gamma_po", "target_margins"), ("dama", "betas")):
        assert not torch.equal(alone.found[loss][name], after.found[loss][name]), "what training left is read"
