"""docs/adding-an-objective.md, followed as a reader would: its files are written, its commands and its test run."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from mmpo import plugins
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.stand_in import stand_in
from tests.cli.conftest import Invoke


def test_the_golden_case_is_right_and_the_loss_is_shown(mmpo: Invoke, files: Path) -> None:
    checked = mmpo("objectives", "check", "golden.json", "--plugin", "my_losses", "--strict")
    assert checked.exit_code == 0 and "1 cases, 1 ok, 0 failed" in checked.output, checked.output
    shown = mmpo("objectives", "show", "tempered_dpo", "--plugin", "my_losses").output
    assert "dpo for power 0" in shown and "[0, 1]" in shown
    assert "tempered_dpo" in mmpo("objectives", "--needs", "len", "--plugin", "my_losses").output


def test_without_the_plug_in_the_loss_is_unknown(mmpo: Invoke, files: Path) -> None:
    assert mmpo("objectives", "check", "golden.json").exit_code == 1
    refused = mmpo("objectives", "--plugin", "my_loses")
    assert refused.exit_code == 2 and "my_losses" in refused.stderr


def test_the_test_of_the_page_passes(files: Path) -> None:
    module = importlib.import_module("test_my_losses")
    (run,) = (function for name, function in vars(module).items() if name.startswith("test_"))
    run()


def test_rule_view_and_ratio_work(files: Path) -> None:
    for module in ("remembering", "seeing", "early"):
        plugins.load(module)
    objective = build_objective({"centred_dpo": {}, "seeing_dpo": {}, "dpo": {"ratio": {"early": {"half": 8.0}}}})
    assert objective.start() == {"centred_dpo": {"mean": torch.tensor(0.0, dtype=torch.float64)}}
    assert objective.corruption == "black" and [view.name for view in objective.views] == ["chosen_corrupted"]
    values = {name: torch.tensor(value) for name, value in (("W", [1.0, 3.0]), ("L", [0.0, 0.0]))}
    values |= {"Wr": torch.zeros(2), "Lr": torch.zeros(2)}
    _, after = OBJECTIVES["centred_dpo"].look(values, None, {"momentum": 0.5}, seed=0)
    assert after["mean"].item() == 1.0  # half of the mean gap, 2
    assert objective.loss(stand_in(objective)).isfinite()
