"""Runs in rounds on a tiny model that hallucinates, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.faults.commands import World, artefacts

Mmpo = Callable[..., Result]
ON = ("--set", "rounds.number=2", "--set", "rounds.stop=null")
SMALL = (
    "--set", "train.max_steps=4", "--set", "eval.benchmarks=[chair]", "--set", "train.save_steps=2",
    "--set", "eval.chair.max_new_tokens=8", "--set", "build.samples_per_image=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def mmpo_here() -> Mmpo:
    """`mmpo_here("run", …)` runs the command in this process."""
    from mmpo.cli.app import load_commands

    app = load_commands()

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], prog_name="mmpo")

    return invoke


@pytest.fixture(scope="session")
def rounds_world(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("rounds"), parrot_folder, 6)


@pytest.fixture(scope="session")
def words(rounds_world: World) -> Callable[..., list[object]]:
    """The command line of a small run in a folder of that name."""

    def of(command: str, name: str, *more: object) -> list[object]:
        return [command, rounds_world.folder / "all.yaml", "--out", rounds_world.folder / name / "out", *SMALL, *more]

    return of


@pytest.fixture(scope="session")
def two_rounds(mmpo_here: Mmpo, words: Callable[..., list[object]], rounds_world: World) -> tuple[Path, Result]:
    """A run of two rounds that nothing disturbed, and what it printed."""
    result = mmpo_here(*words("run", "whole", *ON))
    assert result.exit_code == 0, result.output
    return rounds_world.folder / "whole" / "out", result


def made(out: Path) -> dict[str, Any]:
    """What must come out the same: every file of the run but clocks, logs and the shared answers, whose files are
    named at random."""
    found = artefacts(out)
    return {name: value for name, value in found.items() if "eval-answers/" not in name and name != "versions.json"}
