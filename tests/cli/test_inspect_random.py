"""`mmpo inspect PAIRS --random N`: the same pairs each time, their differences marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.cli.inspect_pairs import show_random
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError


def test_differences_and_made_up_things_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PairWriter(tmp_path / "pairs") as writer:
        for k in range(4):
            writer.add(
                PreferencePair.simple(
                    id=f"pair-{k}", image=b"x", question="What is there?", chosen="A dog and a ball.",
                    rejected="A dog, a cat and a ball.", provenance={"removed": ["cat"]},
                )
            )  # fmt: skip
    show_random(tmp_path / "pairs", 2)
    shown = capsys.readouterr().out
    assert shown.count("What is there?") == 2
    assert shown.count("[!cat!]") == 2
    show_random(tmp_path / "pairs", 2)
    assert capsys.readouterr().out == shown
    with pytest.raises(UserError, match="--random shows pairs"):
        show_random(tmp_path, 2)
