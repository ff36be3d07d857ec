"""The command that prints how often a demo model is right, with a made-up measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpo.demo.by_kind import KindShare, command

ROOT = str(Path(__file__).parents[2])


def measure(model: Path, adapter: Path | None, number: int, seed: int) -> dict[str, dict[str, KindShare]]:
    name = f"{model} {adapter} {seed}"
    return {name: {"side": KindShare(1, number)}}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["accuracy", *arguments])
    command("About films.", measure, lambda: Path("shipped"), "films", 4)


def test_the_shipped_model_and_the_usual_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    assert capsys.readouterr().out.splitlines() == [
        "| right, % [95 %] | shipped None 0 |",
        "| --- | ---: |",
        "| side | 25.0 [4.6, 69.9] of 4 |",
    ]


def test_everything_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "own", "--adapter", "tuned", "--films", "2", "--seed", "3", "--json")
    assert json.loads(capsys.readouterr().out) == {"own tuned 3": {"side": {"right": 1, "asked": 2}}}


@pytest.mark.parametrize("module", ["seen_by_kind", "radiology.accuracy"])
def test_a_mistake_is_told_without_a_traceback(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"mmpo.demo.{module}", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 2 and "error: nowhere: no" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
