"""`--workers N`: more processes on this machine that take part in a step, and `--shard I/N` for other machines.

The process that was started is the first worker, and the only one that prints. The others run the same command as
members of its team, one device each and their part of the processor cores. They end when it ends, however it ends: each
watches a pipe from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from mmpo.cli import console
from mmpo.errors import UserError
from mmpo.recipes.source import RecipeSource
from mmpo.team import Team, share_of

HELPER = "MMPO_HELPER"
"""Set in the environment of the processes that the first worker starts."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEVICES = "CUDA_VISIBLE_DEVICES"
ENDING = 20.0
"""Seconds that a worker has to end when it is told to."""


def is_helper() -> bool:
    """True in a process that the first worker started."""
    return HELPER in os.environ


def team_for(source: RecipeSource, workers: int, shard: str | None) -> Team | None:
    """The team of a command; None where it works alone. All commands with one recipe, as it was changed by --set, are
    of one team. Raises UserError for a `shard` that is none."""
    if shard is None and workers == 1:
        return None
    share, shares = share_of(shard) if shard is not None else (0, 1)
    recipe = json.dumps(source.data, sort_keys=True, default=str)
    return Team(hashlib.sha256(recipe.encode()).hexdigest()[:16], share * workers, shares * workers)


@dataclass
class Helper:
    """Worker `number` of `workers`, from 1; what it says at its end is in `told`."""

    number: int
    workers: int
    process: subprocess.Popen[bytes]
    told: IO[bytes]
    noted: bool = field(default=False)

    def heed(self) -> None:
        """Raises UserError where it met one; warns once where it died otherwise: the others do its work."""
        code = self.process.poll()
        if not code or self.noted:
            return
        self.noted = True
        self.told.seek(0)
        first, *more = self.told.read().decode(errors="replace").strip().splitlines() or [""]
        if code == 2:
            raise UserError(first.removeprefix("error: "), hint=" ".join(more).strip().removeprefix("hint: ") or None)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = f": {first}" if first else ""
        console.warn(f"worker {self.number} of {self.workers} ended ({how}){said}; the others go on")

    def stop(self) -> None:
        """End it, if it still runs: gently, then not."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.told.close()


@contextmanager
def helped(team: Team, workers: int, words: Sequence[object]) -> Iterator[Team]:
    """Inside the block, `workers` - 1 processes run the command `words` as members of the team. Yields the team, which
    heeds how they fare; they are ended with the block."""
    devices = _devices()
    threads = str(max(1, _cores() // workers))
    environments = [_environment(number, devices, threads) for number in range(workers)]
    helpers: list[Helper] = []

    def heed() -> None:
        for helper in helpers:
            helper.heed()

    with _as_worker(environments[0]):
        try:
            for number in range(1, workers):
                share = f"{team.share + number + 1}/{team.shares}"
                told = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
                process = subprocess.Popen(
                    [sys.executable, "-m", "mmpo", *map(str, words), "--shard", share],
                    env={**os.environ, **environments[number], HELPER: "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=told,
                    start_new_session=True,  # Ctrl-C reaches the first worker, which ends the others
                )
                helpers.append(Helper(number + 1, workers, process, told))
            yield Team(team.name, team.share, team.shares, heed)
        finally:
            for helper in helpers:
                with suppress(OSError):
                    assert helper.process.stdin is not None
                    helper.process.stdin.close()  # all at once
            for helper in helpers:
                helper.stop()


def end_with_first_worker() -> None:
    """In a helper: watch the pipe from the first worker, and end when it closes, as by Ctrl-C."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, name="mmpo-first-worker", daemon=True).start()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get(DEVICES)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _environment(number: int, devices: Sequence[str], threads: str) -> dict[str, str]:
    """What worker `number` is started with. Threads that the user set stay."""
    own = {name: threads for name in THREADS if name not in os.environ}
    return own | ({DEVICES: devices[number % len(devices)]} if devices else {})


@contextmanager
def _as_worker(environment: Mapping[str, str]) -> Iterator[None]:
    """The first worker, too, keeps to its part of the machine, for the length of the block."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    limited = THREADS[0] in environment
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else _cores()
    if limited and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment[THREADS[0]]))
    try:
        yield
    finally:
        if limited and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
