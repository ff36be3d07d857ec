"""docs/select.md: its recipes, its table, its plug-in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import yaml

from mmpo.recipes.schema import recipe_class
from mmpo.select.chain import decide
from mmpo.select.registry import SELECTORS
from mmpo.select.selectors import OWN
from mmpo.select.settings import select_settings
from mmpo.select.table import PairTable

PAGE = (Path(__file__).parents[2] / "docs/select.md").read_text(encoding="utf-8")


def test_its_recipes_are_recipes() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        data = yaml.safe_load(block)
        for section in ("select", "train"):
            if section in data:
                data[section].setdefault("pairs", "PAIRS")
        recipe_class().model_validate({"name": "page", **data})


def test_its_table_names_every_selector() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(OWN)
    assert all(SELECTORS[name] is found for name, found in OWN.items())
    for name, found in OWN.items():
        if found.ranks:
            row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
            default = found.model_fields["keep"].default
            assert f"`keep` ({'all' if default == 1 else default})" in row


def test_its_selector_selects() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    try:
        exec(code, {"__name__": "page_of_select"})
        words = {"chosen_words": np.array([30.0, 30.0]), "rejected_words": np.array([30.0, 10.0])}
        settings = select_settings().model_validate({"pairs": "x", "by": ["long_answers"]})
        found = decide(settings, PairTable(2, words))
        assert found.kept.tolist() == [0] and found.reasons == [("long_answers", "too_short")]
    finally:
        SELECTORS.forget({"page_of_select"})
