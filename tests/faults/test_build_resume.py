"""A build killed with SIGKILL, at every commitment and at random, ends with the bytes of one that ran through."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from tests.data_builders import parrot
from tests.tiny import contents


@pytest.fixture(scope="module")
def settings(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    return parrot.small_build(parrot_folder, tmp_path_factory.mktemp("world"), 9)


@pytest.fixture(scope="module")
def whole(settings: BuildSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The files of an uninterrupted build, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    build(settings, folder)
    return contents(folder), time.monotonic() - started


def _work(settings: BuildSettings, folder: Path, renames: int | None, before: bool) -> None:
    """In the child: build, and die by SIGKILL just before or just after the `renames`-th file comes into place."""
    if renames is not None:
        real, left = os.replace, [renames]

        def replace(source: str, target: str) -> None:
            left[0] -= 1
            if left[0] == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace  # type: ignore[assignment]
    build(settings, folder)


def run_killed(
    settings: BuildSettings,
    folder: Path,
    *,
    renames: int | None = None,
    before: bool = False,
    after: float | None = None,
) -> bool:
    """Build in a process of its own that is killed on the way. Returns whether it was."""
    child = multiprocessing.get_context("fork").Process(target=_work, args=(settings, folder, renames, before))
    child.start()
    if after is not None:
        time.sleep(after)
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


@pytest.mark.parametrize(
    "renames", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_killed_at_every_commitment(
    renames: int, settings: BuildSettings, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    """A build that dies again and again, around its first (second, third) file that comes into place: in turn just
    before and just after that. Together the three reach every file that is written.
    """
    deaths = 0
    while deaths < 24 and run_killed(settings, tmp_path, renames=renames, before=deaths % 2 == 0):
        deaths += 1
    assert deaths > 3
    build(settings, tmp_path)
    assert contents(tmp_path) == whole[0]


@pytest.mark.slow
def test_killed_at_random_moments(
    settings: BuildSettings, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    rng = random.Random(5)
    killed = 0
    for number in range(3):
        folder = tmp_path / str(number)
        for _ in range(3):
            killed += run_killed(settings, folder, after=rng.random() * min(whole[1], 3.0))
        build(settings, folder)
        assert contents(folder) == whole[0]
    assert killed > 0


@pytest.mark.slow
def test_killed_at_twenty_random_moments(
    settings: BuildSettings, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    """Twenty builds, one death each, anywhere from the first file to the last, and another one while it goes on."""
    left_behind = set()
    for seed in range(20):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        after = rng.random() * whole[1]
        while not run_killed(settings, folder, after=after):  # it was done before: the machine has become faster
            shutil.rmtree(folder)
            after *= 0.7
        left_behind.add(frozenset(contents(folder)))
        run_killed(settings, folder, after=rng.random() * whole[1] / 2)
        build(settings, folder)
        assert contents(folder) == whole[0], seed
    assert len(left_behind) >= 4, "killed at different points of the way"


def test_leftovers_of_a_death_do_not_matter(
    settings: BuildSettings, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    assert run_killed(settings, tmp_path, renames=5)
    (tmp_path / "generations" / ".00001.descriptions.json.tmp").write_bytes(b'{"key":')
    (tmp_path / "generations" / "00001.answers.json").write_bytes(b'{"key":')
    (tmp_path / "units" / ".00002.json.tmp").write_bytes(b'{"half":')
    (tmp_path / "pairs" / "data").mkdir(parents=True)
    (tmp_path / "pairs" / "data" / ".train-00000.parquet.tmp").write_bytes(b"PAR1")
    (tmp_path / "pairs" / "rejects.jsonl").write_bytes(b'{"id": "i1", "stage": "dec')
    build(settings, tmp_path)
    assert contents(tmp_path) == whole[0]
    shutil.rmtree(tmp_path / "units")
