"""Runs in rounds on a tiny model that hallucinates, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.faults.commands import World, artefacts

RunIn = Callable[..., Result]
OUT = Path("out")
ON = ("--set", "rounds.number=2", "--set", "rounds.stop=null")
SMALL = (
    "--set", "train.max_steps=4", "--set", "eval.benchmarks=[chair]", "--set", "train.save_steps=2",
    "--set", "eval.chair.max_new_tokens=8", "--set", "build.samples_per_image=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def rounds_world(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("rounds"), parrot_folder, 6)


@pytest.fixture(scope="session")
def run_in(rounds_world: World) -> RunIn:
    """`run_in("mine", "run", …)` runs the command of the small recipe in this process, in `out` of a folder of that
    name: in all folders the run is called the same, so that all files can be compared."""
    from mmpo.cli.app import load_commands

    app = load_commands()

    def invoke(name: str, command: str, *more: object) -> Result:
        folder = rounds_world.folder / name
        folder.mkdir(exist_ok=True)
        own = command in ("build", "train", "eval", "run")
        words = [command, rounds_world.folder / "all.yaml", "--out", OUT, *SMALL] if own else [command]
        before = os.getcwd()
        os.chdir(folder)
        try:
            return CliRunner().invoke(app, [str(word) for word in (*words, *more)], prog_name="mmpo")
        finally:
            os.chdir(before)

    return invoke


@pytest.fixture(scope="session")
def two_rounds(run_in: RunIn, rounds_world: World) -> tuple[Path, Result]:
    """A run of two rounds that nothing disturbed, and what it printed."""
    result = run_in("whole", "run", *ON)
    assert result.exit_code == 0, result.output
    return rounds_world.folder / "whole" / OUT, result


def made(out: Path) -> dict[str, Any]:
    """What must come out the same: every file of the run but clocks, logs and the shared answers, whose files are
    named at random."""
    found = artefacts(out)
    return {name: value for name, value in found.items() if "eval-answers/" not in name and name != "versions.json"}
