"""A selection among real pairs of the demo world, scored by the demo's model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.reader import read_pairs
from tests.cli.conftest import Invoke, here, mmpo  # noqa: F401 - fixtures

BY = "[{reference_gap: {keep: 0.5}}, {wpo: {keep: 0.9}}, length_balance]"


@pytest.mark.slow
def test_demo_pairs_by_the_demo_model(mmpo: Invoke) -> None:  # noqa: F811
    few = ["--set", "build.limit=12", "--set", f"select={{by: {BY}}}", "--out", "run"]
    for section in ("build", "select"):
        done = mmpo(section, "demo", *few)
        assert done.exit_code == 0, done.output
    result = json.loads(Path("run/select/select_result.json").read_text())
    table = result["counts"]["pairs"]
    assert table["in"] == sum(1 for _ in read_pairs("run/build/pairs")) == sum(table.values()) - table["in"]
    assert table["kept"] == sum(1 for _ in read_pairs("run/select/pairs")) > 0
    gap, weight, _ = result["steps"]
    assert gap["kept"] == table["in"] // 2 and not set(gap["dropped"]) - {"below"}
    assert weight["kept"] == int(gap["kept"] * 0.9 + 1e-9)
    assert all(pair.scores["wpo_weight"] > 0 for pair in read_pairs("run/select/pairs") if pair.scores)
    assert abs(result["after"]["length_difference"]) <= 0.02 * result["after"]["rejected_words"] + 1e-9
    recipe = Path("run/recipe.yaml").read_text()
    assert "select:" in recipe
