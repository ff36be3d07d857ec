"""Recipes on the pages of training and objectives are sound: the settings' own checks and the objective's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Invoke

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("training.md", "objectives.md", "adding-an-objective.md")


def snippets(page: str) -> list[dict[str, object]]:
    """Every YAML block; one that begins with `objective:` stands under `train:`."""
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    read = [yaml.safe_load(block) for block in blocks]
    return [one if "train" in one else {"train": one} for one in read]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_pass_the_recipe_check(
    page: str, mmpo: Invoke, files: Path, pairs: Path, tiny_llava_folder: Path, new_process: Callable[[], None]
) -> None:
    found = snippets(page)
    assert found
    for number, snippet in enumerate(found):
        recipe = files / f"snippet-{number}.yaml"
        recipe.write_text(yaml.safe_dump({"model": str(tiny_llava_folder), **snippet}), encoding="utf-8")
        checked = mmpo("recipe", "check", recipe, "--set", f"train.pairs={pairs}")
        assert checked.exit_code == 0, (snippet, checked.output)
        new_process()
