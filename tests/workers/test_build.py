"""A build by several real processes: the same bytes, whoever made what, and whoever was killed on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.workers.conftest import Start, ends_well, made_in


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process makes."""
    from mmpo.cli.running import run_recipe

    folder = tmp_path_factory.mktemp("alone") / "run"
    run_recipe(str(recipe), section="build", out=folder)
    return made_in(folder / "build")


def units_of(run: Path) -> list[Path]:
    return sorted((run / "build" / "units").glob("*.json"))


def until_units(run: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until `number` units are there."""
    deadline = time.monotonic() + 120
    while len(units_of(run)) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(units_of(run)) >= number or process.poll() == 0


def children_of(pid: int) -> Iterator[int]:
    with suppress(OSError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_make_the_same_bytes(workers: int, start: Start, expected: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = ends_well(start("build", "--out", run, "--workers", workers))
    assert made_in(run / "build") == expected
    assert "ended" not in told
    assert not list(run.rglob("*.claim"))
    assert not list(run.rglob(".mmpo-lock"))


@pytest.mark.slow
def test_two_shards_one_killed(start: Start, expected: dict[str, str], tmp_path: Path) -> None:
    """One of two machines dies in the middle of a unit; the other one makes everything."""
    run = tmp_path / "run"
    shards = [start("build", "--out", run, "--shard", f"{number}/2") for number in (1, 2)]
    until_units(run, 1, shards[0])
    shards[0].kill()
    shards[0].communicate()
    ends_well(shards[1])
    assert made_in(run / "build") == expected
    assert not list(run.rglob("*.claim"))


@pytest.mark.slow
def test_two_shards(start: Start, expected: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shards = [start("build", "--out", run, "--shard", f"{number}/2") for number in (1, 2)]
    for shard in shards:
        assert "pairs" in ends_well(shard)
    assert made_in(run / "build") == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random(seed: int, start: Start, expected: dict[str, str], tmp_path: Path) -> None:
    """Any of three workers, the first one too, killed at a random moment; then the same command again."""
    run, chance = tmp_path / "run", random.Random(seed)
    first = start("build", "--out", run, "--workers", 3)
    until_units(run, chance.randrange(0, 6), first)
    time.sleep(chance.random())
    victim = chance.choice([first.pid, *children_of(first.pid)])
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    first.communicate(timeout=300)
    if first.returncode != 0:
        assert victim == first.pid
        # its helpers see that it is gone; until they have ended, the folder is theirs
        deadline = time.monotonic() + 60
        while (run / ".mmpo-lock").exists() and time.monotonic() < deadline:
            again = start("build", "--out", run, "--workers", 3)
            if "in use" not in again.communicate(timeout=300)[1]:
                break
        else:
            again = start("build", "--out", run, "--workers", 3)
            ends_well(again)
    assert made_in(run / "build") == expected


@pytest.mark.slow
def test_a_second_command_by_mistake(start: Start, expected: dict[str, str], recipe: Path, tmp_path: Path) -> None:
    """A plain one is refused; one with another recipe too, whatever its shard."""
    run = tmp_path / "run"
    first = start("build", "--out", run, "--workers", 2)
    until_units(run, 1, first)
    plain = start("build", "--out", run)
    other = start("build", "--out", run, "--shard", "2/2", "--set", "build.seed=9")
    for refused in (plain, other):
        _, err = refused.communicate(timeout=300)
        assert refused.returncode == 2 and ("in use by" in err or "other settings" in err), err
    ends_well(first)
    assert made_in(run / "build") == expected


@pytest.mark.slow
def test_interrupted(start: Start, tmp_path: Path) -> None:
    """Ctrl-C ends all, and says how to go on."""
    run = tmp_path / "run"
    first = start("build", "--out", run, "--workers", 2)
    until_units(run, 1, first)
    helpers = list(children_of(first.pid))
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    if first.returncode == 0:
        pytest.skip("it was done before it could be interrupted")
    assert first.returncode == 130 and "--workers 2" in err
    assert not [pid for pid in helpers if Path(f"/proc/{pid}").exists()]


def test_what_is_no_share(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from mmpo.cli.app import load_commands

    app, run = load_commands(), tmp_path / "run"
    for words in (["--shard", "3/2"], ["--shard", "0/2"], ["--shard", "x"], ["--shard", "1/2/3"], ["--workers", "0"]):
        told = CliRunner().invoke(app, ["build", str(recipe), "--out", str(run), *words], prog_name="mmpo")
        assert told.exit_code == 2, words
        assert words[0] in told.output
        assert not run.exists()
    told = CliRunner().invoke(app, ["build", str(recipe), "--shard", "1/2"], prog_name="mmpo")
    assert told.exit_code == 2 and "--out" in told.output
