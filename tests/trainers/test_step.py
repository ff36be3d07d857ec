"""Losses in which the pairs of a step depend on each other: how the step is cut changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mmpo.trainers.step import gather_step
from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_pairs
from tests.trainers.test_processes import launch

STEPWISE: list[dict[str, Any]] = [
    {"aot": {"beta": 0.2}},
    {"aot": {"beta": 0.2, "paired": False}},
    {"kto_pair": {"beta": 0.3}},
    {"bco_pair": {"beta": 0.2, "delta": "running"}},
    {"mpo": {"beta": 0.2, "delta": "running"}, "aot": {"weight": 0.5}},
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
        objective={"mpo": {"beta": 0.2, "delta": "running"}, "aot": {"beta": 0.2, "paired": False}, "kto_pair": {}},
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
