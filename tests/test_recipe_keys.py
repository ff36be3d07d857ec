"""Recipes of mmpo 0.1: every key that they could have is still one, or its new name is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from mmpo.objectives.build import spec_mistakes
from mmpo.recipes.other_names import RENAMED
from mmpo.recipes.schema import tolerant
from mmpo.recipes.source import RecipeSource

LINES = (Path(__file__).parent / "recipe_keys.txt").read_text().splitlines()
"""`PLACE (BUILDER): KEY KEY …` of all recipes that version 0.1 took."""


def unknown(place: str, keys: Iterable[str], builder: str = "hallucination_pairs") -> dict[str, str]:
    """The keys at that place that no recipe has, and what is said of them."""
    around = place.split(".") if place else []
    if around[:2] == ["train", "objective"]:
        found = {path[-1]: text for path, text, _ in spec_mistakes({around[2]: dict.fromkeys(keys, 1.0)})}
    else:
        data: dict[str, Any] = reduce(lambda inner, name: {name: inner}, reversed(around), dict.fromkeys(keys))
        if around[:1] == ["build"]:
            data["build"]["builder"] = builder
        found = {
            problem.path[-1]: problem.message for problem in tolerant(RecipeSource("old.yaml", data))[1] if problem.path
        }
    return {key: text for key, text in found.items() if re.search("unknown|no parameter", text)}


@pytest.mark.parametrize("line", LINES)
def test_a_key_of_an_old_recipe_is_known_or_told_its_new_name(line: str) -> None:
    place, builder, names = re.fullmatch(r"([\w.]*)(?: \((\w+)\))?: (.*)", line).groups()  # type: ignore[union-attr]
    found = unknown(place, names.split(), builder)
    assert found.keys() == set(names.split()) & RENAMED.keys()
    for key, told in found.items():
        assert f"since mmpo 0.1 it is called {RENAMED[key]}" in told


@pytest.mark.parametrize("place", ["", "train", "train.lora", "train.objective.dpo", "build.qa", "eval.pope"])
def test_a_key_that_never_was_is_found_out(place: str) -> None:
    assert list(unknown(place, {"zzz": None})) == ["zzz"]
