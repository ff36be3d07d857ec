"""The demo model's card."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmpo.demo import model_path
from mmpo.eval.statistics.scorecard import Scorecard
from tools.demo_models.model_card import write_model_card


@pytest.mark.slow
def test_the_card_states_what_was_measured(tmp_path: Path) -> None:
    model = Path(shutil.copytree(model_path(), tmp_path / "model"))
    (model / "README.md").unlink()
    text = write_model_card(model, tmp_path / "work", images=12).read_text()
    assert "7.2 million parameters" in text and "on 12 images of each split" in text
    scorecard = Scorecard.read(tmp_path / "work" / "test" / "scorecard.json")
    measured = scorecard.row("chair", "CHAIRi").after.value
    assert f"| CHAIR_i ↓ | {100 * measured:.1f} [" in text
