"""Recipes on the pages of training and objectives are sound: the settings' own checks and the objective's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from tests.cli.conftest import Invoke

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("training.md", "objectives.md", "adding-an-objective.md")


def snippets(page: str) -> list[dict[str, Any]]:
    """Every YAML block; one that begins with `objective:` stands under `train:`."""
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    read = [yaml.safe_load(block) for block in blocks]
    return [one if "train" in one else {"train": one} for one in read]


def scored(pairs: Path, snippet: dict[str, Any], folder: Path) -> Path:
    """The pairs with the scores that a snippet names, and those that losses read by themselves."""
    named = [name for name in (snippet["train"].get("scores") or {}).values() if isinstance(name, str)]
    names = dict.fromkeys([*named, "chosen", "rejected", "similarity"])
    with PairWriter(folder, recipe={}, scores=tuple(names)) as writer:
        for pair in read_pairs(pairs):
            values = {name: 0.25 if "rejected" in name else 0.75 for name in names}
            writer.add(replace(pair, scores=values))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_snippets_pass_the_recipe_check(
    page: str, mmpo: Invoke, files: Path, pairs: Path, tiny_llava_folder: Path, new_process: Callable[[], None]
) -> None:
    found = snippets(page)
    assert found
    for number, snippet in enumerate(found):
        recipe = files / f"snippet-{number}.yaml"
        recipe.write_text(yaml.safe_dump({"model": str(tiny_llava_folder), **snippet}), encoding="utf-8")
        checked = mmpo("recipe", "check", recipe, "--set", f"train.pairs={scored(pairs, snippet, files / str(number))}")
        assert checked.exit_code == 0, (snippet, checked.output)
        new_process()
