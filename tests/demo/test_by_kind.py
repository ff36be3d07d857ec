"""The command that prints how often a demo model is right, with a made-up measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.demo.by_kind import KindShare, command
from tests.conftest import RunModule


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
def test_a_mistake_is_told_in_one_line(module: str, run_module: RunModule, tmp_path: Path) -> None:
    code, told = run_module(f"mmpo.demo.{module}", "nowhere")
    assert code == 2 and told.startswith("error: nowhere: no") and not list(tmp_path.iterdir())
