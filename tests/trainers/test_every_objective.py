"""Every registered objective trains by a recipe, on images, on several images and on videos, and goes on after a stop
to the same weights. A new objective is among them by its registration alone.

By default every third takes two steps on images; the whole matrix, of ten steps with a stop, is `slow`.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import load_file

from mmpo.cli.running import run_recipe
from mmpo.objectives import OBJECTIVES
from mmpo.pipeline import open_run, run_section
from mmpo.preflight import examine
from mmpo.progress import reporting
from mmpo.recipes import dump, read
from mmpo.runs import RunFolder
from mmpo.trainers.regularizers.settings import RegularizerSettings
from tests.tiny_videos import openable
from tests.trainers.objective_worlds import KINDS, World, make_world, objective_of, train_section

__all__ = ["openable"]

CLOCKS = ("seconds", "pairs_per_second", "eval_runtime")
STEPS, STOP = 10, 7
"""The run is saved after five steps and stopped after seven."""

Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    made: dict[str, World] = {}

    def world(kind: str) -> World:
        if kind not in made:
            made[kind] = make_world(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return world


@pytest.fixture(scope="module", autouse=True)
def _quick_runs() -> Iterator[None]:
    """Most of a small run's time is its garbage collection at the end, quick where all that was imported is left out of
    it, and the model cards beside its weights."""
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PeftModel, "create_or_update_model_card", lambda self, folder: None)
        yield
    gc.unfreeze()


class Stopped(Exception):
    """The run is stopped."""


class StopAt:
    """A progress reporter that stops a run when so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.steps, self.training = steps, False

    def begin(self, label: str, total: int | None) -> StopAt:
        found = StopAt(self.steps)
        found.training = label == "training"
        return found

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.steps -= steps
        if self.training and self.steps == 0:
            raise Stopped

    def extend(self, total: int | None) -> None:
        pass

    def close(self, *, finished: bool) -> None:
        pass


def trained(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result of `mmpo train` on a recipe with this section, in this run folder."""
    file = folder.with_suffix(".yaml")
    file.write_text(dump({"name": "mine", "train": dict(section)}))
    run = RunFolder(folder)
    recipe, _ = examine(read(str(file)), run=run.path, inputs={}, sections=("train",))
    open_run(run, recipe)
    return run_section(run, recipe, "train")


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "train" / "metrics.jsonl").open())
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in lines]


def check_trained(folder: Path, steps: int) -> None:
    """All numbers are finite, and the weights have moved from where they start, at B = 0."""
    metrics = rows(folder)
    assert [row["step"] for row in metrics if "loss" in row] == list(range(1, steps + 1))
    for row in metrics:
        assert all(math.isfinite(value) for value in row.values()), row
    weights = load_file(folder / "train" / "adapter" / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def check_resumes(section: Mapping[str, Any], folder: Path) -> None:
    """A run that is stopped and resumed says and makes what one says and makes that is not."""
    whole, stopped = folder / "whole", folder / "stopped"
    assert trained(section, whole)["steps"] == STEPS
    check_trained(whole, STEPS)
    with reporting(StopAt(STOP)), pytest.raises(Stopped):
        trained(section, stopped)
    assert trained(section, stopped)["resumed_from"] == 5
    assert rows(stopped) == rows(whole)
    adapter = "train/adapter/adapter_model.safetensors"
    assert (stopped / adapter).read_bytes() == (whole / adapter).read_bytes()


_LANES = [pytest.param(name, marks=[pytest.mark.slow] * (i % 3 != 0)) for i, name in enumerate(sorted(OBJECTIVES))]


@pytest.mark.parametrize("name", _LANES)
def test_it_trains_on_images(name: str, worlds: Worlds, tmp_path: Path) -> None:
    section = train_section(worlds("image"), objective_of(OBJECTIVES[name]), max_steps=2, save_steps=None)
    assert trained(section, tmp_path / "run")["steps"] == 2
    check_trained(tmp_path / "run", 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_it_trains_on_all_and_resumes(name: str, kind: str, worlds: Worlds, tmp_path: Path, openable: None) -> None:
    """In two micro-batches a step, evaluated on the way."""
    world = worlds(kind)
    section = train_section(
        world, objective_of(OBJECTIVES[name]), max_steps=STEPS, save_steps=5, batch_size=2, accumulation=2,
        eval_fraction=0.25, eval_steps=4,
    )  # fmt: skip
    check_resumes(section, tmp_path)


# ---- what else a recipe may say of an objective, its reference and the adapter

MOVING = {"from": 0.5, "to": 0.1, "over": 0.8}

Told = Callable[[World], dict[str, Any]]

SAYINGS: Mapping[str, Told] = {
    "a schedule": lambda world: {"objective": {"dpo": {"beta": MOVING}, "sft": {"weight": MOVING}}},
    "a ratio": lambda world: {"objective": {"dpo": {"ratio": {"ld": {"alpha": MOVING}}}, "hinge": {"ratio": "dense"}}},
    "weights of pairs": lambda world: {"objective": {"hinge": {"times": {"madpo": {"tau": 1.0}, "wpo": None}}}},
    "a schedule of a rule": lambda world: {"objective": {"beta_dpo": {"beta": MOVING, "ratio": "ld"}, "aot": {}}},
    "an adapter": lambda world: {"reference": {"adapter": str(world.guide)}},
    "a model": lambda world: {"reference": {"model": str(world.model)}, "cache_reference": True},
    "a moving reference": lambda world: {"reference": {"moving": {"mix": 0.5, "every": 3}}},
    "a second reference": lambda world: {
        "objective": {"mrpo": {}}, "references": {"second": {"model": str(world.model)}}
    },
    **{
        name: lambda world, name=name: {"regularizers": {name: {}}}  # type: ignore[misc]
        for name in RegularizerSettings.model_fields
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", SAYINGS)
def test_a_run_resumes_with(what: str, worlds: Worlds, tmp_path: Path) -> None:
    told = SAYINGS[what](worlds("image"))
    objective = told.pop("objective", {"dpo": {}})
    if what == "saf":
        told["regularizers"]["saf"] = {"epochs": 0.5}  # it starts with the second pass over eight pairs
    section = train_section(worlds("image"), objective, max_steps=STEPS, save_steps=5, batch_size=4, **told)
    check_resumes(section, tmp_path)


def test_the_command_trains_on_all_that_a_recipe_may_say(worlds: Worlds, tmp_path: Path) -> None:
    """`mmpo run` with schedules, a ratio, weights of pairs, a moving and a second reference and regularizers."""
    world = worlds("image")
    section = train_section(
        world,
        {"dpo": {"beta": MOVING, "ratio": "dense", "times": "madpo"}, "mrpo": {"weight": MOVING}},
        max_steps=2,
        save_steps=None,
        reference={"moving": {"alpha": 0.5, "every": 1}},
        regularizers={"lora_ggpo": {}, "mesa": {}, "pego": {}, "multi_sample_dropout": {}},
    )
    file = tmp_path / "mine.yaml"
    file.write_text(dump({"name": "mine", "train": section}))
    run_recipe(str(file), out=tmp_path / "run")
    check_trained(tmp_path / "run", 2)
    first = rows(tmp_path / "run")[0]
    assert first["schedule/dpo.beta"] == 0.5 and first["schedule/mrpo.weight"] == 0.5
