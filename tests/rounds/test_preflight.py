"""Mistakes in a recipe with rounds are told before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmpo.errors import UserError
from mmpo.preflight import examine
from mmpo.preflight.summary import summary
from mmpo.recipes import Recipe, override
from mmpo.recipes.source import RecipeSource
from tests.faults.commands import World

ROUNDS = ("eval.benchmarks=[chair]", "rounds=2")


def examined(world: World, *settings: str, without: str = "") -> tuple[Recipe, list[str]]:
    data: dict[str, Any] = json.loads((world.folder / "all.yaml").read_text())
    data.pop(without, None)
    source = RecipeSource("all.yaml", {"name": "all", **data})
    override(source, [*(ROUNDS[1:] if without == "eval" else ROUNDS), *settings])
    return examine(source, run=world.folder / "nowhere" / "out")


def test_a_right_recipe_is_told_with_its_rounds(rounds_world: World) -> None:
    recipe, warnings = examined(rounds_world)
    assert warnings == []
    told = "rounds 2, each trained from the model of the round before; reference the model of the round before"
    assert summary(recipe.sections(), recipe)[-1] == told


MISTAKES = [
    (["train.pairs=elsewhere"], "train.pairs: is the same in every round"),
    (["eval.adapter=null"], "eval.adapter: is the same in every round (it is None)"),
    (["eval.model=other"], "eval.model: rounds go on with the model that is trained"),
    (["eval.before=other"], "eval.before: in rounds it is the recipe's own model"),
    (["train.resume=false"], "train.resume: false trains every round again each time"),
    (["train.reference={model: other}"], "train.reference: rounds.reference decides the reference"),
    (["train.reference={moving: {}}", "rounds={number: 2, reference: fixed}"], "a moving reference starts as"),
    (["train.objective={simpo: {}}", "rounds={number: 2, reference: fixed}"], "rounds.reference"),
    (["rounds={number: 2, stop: {wrong: claims.wrong}}"], "rounds.stop.wrong: claims.wrong: claims is not among"),
    (["rounds={number: 2, stop: {recall: chair.recall}}"], "rounds.stop.recall: chair does not measure recall"),
    (["build.builder=radiology", "build.annotations=x"], "build"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "told"), MISTAKES)
def test_mistakes_are_told_before_anything_runs(rounds_world: World, settings: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        examined(rounds_world, *settings)
    assert told in error.value.message


@pytest.mark.parametrize("section", ["build", "train"])
def test_rounds_need_a_build_and_a_training(rounds_world: World, section: str) -> None:
    with pytest.raises(UserError) as error:
        examined(rounds_world, *(["train.pairs=x"] if section == "build" else ["eval.adapter=null"]), without=section)
    assert f"rounds build pairs and train on them, and there is no `{section}:` section" in error.value.message


def test_a_metric_that_is_near_is_named(rounds_world: World) -> None:
    with pytest.raises(UserError) as error:
        examined(rounds_world, "rounds={number: 2, stop: {recall: chair.recall}}")
    assert error.value.hint == "did you mean chair.Recall?"


def test_a_moving_reference_goes_with_rounds_that_start_from_it(rounds_world: World) -> None:
    assert examined(rounds_world, "train.reference={moving: {every: 2}}")[1] == []


def test_what_ends_no_round_is_said(rounds_world: World) -> None:
    _, without = examined(rounds_world, without="eval")
    assert "without an `eval:` section nothing ends the rounds early" in without[0]
    _, pope = examined(rounds_world, "eval.benchmarks=[pope]")
    assert [kind for kind in ("wrong", "recall", "words") if f"measure {kind}" in "".join(pope)] == [
        "wrong", "recall", "words",
    ]  # fmt: skip
    assert examined(rounds_world, "eval.benchmarks=[pope]", "rounds={number: 2, stop: null}")[1] == []


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def test_the_room_of_the_models_between_rounds_is_counted(rounds_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(json.loads((rounds_world.folder / "all.yaml").read_text())["model"])
    each = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, each // 2))
    with pytest.raises(UserError, match=r"merged models \d+ MB"):
        examined(rounds_world, "rounds=4")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 10**12))
    assert examined(rounds_world, "rounds=4")[1] == []
