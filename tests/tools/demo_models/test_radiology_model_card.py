"""The radiology model's card."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmpo.demo.radiology import model_path
from mmpo.eval.statistics.scorecard import Scorecard
from tools.demo_models.radiology_model_card import write_model_card


@pytest.mark.slow
def test_the_card_states_what_was_measured(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_path(), tmp_path / "model"))
    (folder / "README.md").unlink()
    text = write_model_card(folder, tmp_path / "work", images=8).read_text()
    card = Scorecard.read(tmp_path / "work" / "eval" / "scorecard.json")
    lines = card.row("radiology", "prior_lines_per_report").after.value
    assert "on 8 drawings" in text and "Not for any real film" in text and f" {lines:.2f} [" in text
    assert "| cardiomegaly: " in text and "| claimed findings that are there | " in text
