"""Processes end with their launcher, and one that hangs is named within a minute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpo.trainers.ranks import Pulse
from tests.trainers.material import settings_for, write_pairs

ROOT = Path(__file__).parents[2]


def until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return holds()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


CHILD = """
import os, sys, time
from mmpo.trainers.ranks import ending_with_launcher
os.environ.update(LOCAL_RANK="0", RANK="0", WORLD_SIZE=sys.argv[1])
with ending_with_launcher(0.1):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


@pytest.mark.parametrize(("world", "ends"), [("2", True), ("1", False)])
def test_a_process_ends_with_its_launcher(world: str, ends: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD, world], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.kill()
        try:
            assert until(lambda: not lives(pid), 10 if ends else 0.6) is ends
        finally:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_process_that_its_launcher_ends_says_what_to_do() -> None:
    """Also while it waits for a process that is gone, when no handler in Python would run to its end."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.terminate()
        assert child.wait(30) == 143
        assert "process 0: ended by its launcher" in (said := child.stderr.read()) and "same command again" in said


def test_a_process_that_is_silent_or_behind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pulse(rank: int) -> Pulse:
        return Pulse(tmp_path / "ranks", rank, 3, every=0.05, patience=0.6)

    with pulse(0) as zero, pulse(1) as one, pulse(2) as two:
        for each in (zero, one, two):
            each.further("step 7")
        zero.further(), one.further()  # and two does not come
        assert until(lambda: zero.named == {2}, 10)
        two.further()
        assert until(lambda: zero.named == set(), 10)
        with one.apart("evaluation"):
            zero.further(), two.further()
            time.sleep(1.0)
            assert zero.named == set(), "an evaluation is waited for"
        one.further()
        zero._over.set()  # as a process that is stopped: it writes no more
        assert until(lambda: one.named >= {0}, 10)
        said = capsys.readouterr().err
        assert "process 0 of 3 (pid" in said and "step 7) has given no sign of life" in said
    assert not list(tmp_path.glob("ranks/*"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the launcher is killed", "a process is stopped"])
def test_two_training_processes(tiny_llava_folder: Path, tmp_path: Path, what: str) -> None:
    settings = settings_for(tiny_llava_folder, write_pairs(tmp_path / "pairs", 12), max_steps=100_000, logging_steps=1)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "tests.faults.run_train", str(tmp_path / "settings.json"), str(tmp_path / "run")),
    ]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        launcher = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
    signs = tmp_path / "run" / "ranks"
    pids: list[int] = []

    def training() -> bool:
        found = [json.loads(path.read_text()) for path in signs.glob("[01]")]
        pids[:] = [int(sign["who"].split()[1]) for sign in found]
        return len(found) == 2 and all(sign["where"].startswith("step") for sign in found)

    try:
        assert until(training, 300), log.read_text()[-2000:]
        if what == "the launcher is killed":
            launcher.kill()
            assert until(lambda: not any(map(lives, pids)), 30)
        else:
            second = int(json.loads((signs / "1").read_text())["who"].split()[1])
            os.kill(second, signal.SIGSTOP)
            assert until(lambda: "process 1 of 2" in log.read_text(), 60), log.read_text()[-2000:]
            assert "no sign of life" in log.read_text()
    finally:
        for pid in [*pids, launcher.pid]:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        launcher.wait()
