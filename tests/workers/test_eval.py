"""An evaluation by several real processes: the same answers in the same order, and the same scorecard."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.data_builders import parrot
from tests.workers.conftest import Start, ends_well, made_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Seventy pictures: three blocks."""
    world = parrot.write_world(tmp_path_factory.mktemp("seventy"), 70)
    return ["--set", f"eval.annotations={world}", "--set", f"eval.images={world.parent}"]


@pytest.fixture(scope="module")
def expected(recipe: Path, change: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from mmpo.cli.running import run_recipe

    folder = tmp_path_factory.mktemp("alone") / "run"
    run_recipe(str(recipe), section="eval", settings=change[1::2], out=folder)
    return made_in(folder / "eval")


@pytest.mark.parametrize("workers", [2, 4])
def test_workers(workers: int, start: Start, change: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends_well(start("eval", "--out", run, *change, "--workers", workers))
    assert made_in(run / "eval") == expected
    assert not list(run.rglob("*.claim"))


def test_a_killed_shard(start: Start, change: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shards = [start("eval", "--out", run, *change, "--shard", f"{number}/2") for number in (1, 2)]
    deadline = time.monotonic() + 200
    while not any(path.stat().st_size for path in run.glob("eval/answers*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    shards[0].kill()
    shards[0].communicate()
    ends_well(shards[1])
    assert made_in(run / "eval") == expected
