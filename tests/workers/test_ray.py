"""`--executor ray`: real actors make the same bytes as one process, also where one is killed; nothing listens beyond
loopback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpo.cli import on_ray
from mmpo.cli.app import load_commands
from mmpo.packages import Package
from tests.workers.conftest import Start, ends_well, made_in

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1 and ::1 as /proc writes them."""


def test_options_that_do_not_go_together(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, run = load_commands(), tmp_path / "run"

    def told(*words: str) -> str:
        done = CliRunner().invoke(app, ["build", str(recipe), "--out", str(run), *words], prog_name="mmpo")
        assert done.exit_code == 2
        assert not run.exists()
        return done.output

    assert "--executor ray" in told("--ray-address", "auto")
    if not on_ray.RAY.here:
        assert "mmpo[ray]" in told("--executor", "ray")
    else:
        assert "--workers" in told("--executor", "ray", "--shard", "1/2")
    monkeypatch.setattr(on_ray, "RAY", Package("no_such_package", "pip install 'mmpo[ray]'"))
    assert "mmpo[ray]" in told("--executor", "ray")


def below(pid: int) -> Iterator[int]:
    """The living descendants of a process."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    yield from found - {pid}


def listening(pids: Iterator[int]) -> list[str]:
    """Addresses that these processes listen on, as /proc writes them."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    found = []
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(file)
            except OSError:
                continue
            if target in sockets:
                found.append(sockets[target])
    return found


def actor_at_work(pid: int) -> int | None:
    for child in below(pid):
        try:
            if b"ray::_Worker.work" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        except OSError:
            continue
    return None


@pytest.mark.slow
def test_ray_makes_the_same_bytes_though_an_actor_is_killed(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    alone, run = tmp_path / "alone", tmp_path / "run"
    ends_well(start("build", "--out", alone))
    process = start("build", "--out", run, "--executor", "ray", "--workers", 2)
    units, deadline = run / "build/units", time.monotonic() + 240
    while not list(units.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    addresses = listening(below(process.pid))
    victim = actor_at_work(process.pid)
    assert victim is not None, process.communicate()
    os.kill(victim, signal.SIGKILL)
    assert "was lost" not in ends_well(process)  # Ray started it again
    assert made_in(run / "build") == made_in(alone / "build")
    assert addresses and set(addresses) <= set(LOOPBACK)


@pytest.mark.slow
def test_ray_evaluates_to_the_same_scorecard(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    alone, run = tmp_path / "alone", tmp_path / "run"
    ends_well(start("eval", "--out", alone))
    ends_well(start("eval", "--out", run, "--executor", "ray", "--workers", 2))
    assert (run / "eval/scorecard.json").read_bytes() == (alone / "eval/scorecard.json").read_bytes()
    assert not list(run.rglob("*.claim"))


@pytest.mark.slow
def test_a_cluster_that_is_not_there(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start("build", "--out", tmp_path / "run", "--executor", "ray", "--ray-address", "127.0.0.1:1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "127.0.0.1:1" in err and "Traceback" not in err
