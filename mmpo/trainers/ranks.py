"""Processes that train together look after each other: they end with their launcher, and one that hangs is named.

    run_dir/ranks/1      signs of life of process 1: how often it beat, how far it is, where

Every process has a thread that writes its file every few seconds. A process that is stopped, or whose machine is gone,
writes no more. One that lives but is stuck falls behind: the others have gone on to where they wait for it. Either is
reported by the lowest process that still lives; nothing is ended for it, since a process may come back.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mmpo.errors import UserError
from mmpo.files.atomic import write_text

logger = logging.getLogger(__name__)

EVERY = 3.0
"""Seconds between two signs of life."""
PATIENCE = 30.0
"""Seconds without one, or behind the others, after which a process is reported."""

AGAIN = "Run the same command again: training goes on from its last checkpoint"


def is_launched() -> bool:
    """True if a launcher such as `accelerate launch` or `torchrun` started this process."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def ending_with_launcher(every: float = 1.0) -> Iterator[None]:
    """End this process within seconds of its launcher's death, and at once where the launcher ends it because another
    one died: orphans would wait for each other, and hold their devices. A run may end at any moment; it continues from
    its last checkpoint."""
    if not is_launched():
        yield
        return
    launcher, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(every):
            if os.getppid() != launcher:
                _end(f"the launcher (pid {launcher}) is gone, so this process ends", 1)

    thread = threading.Thread(target=watch, name="launcher", daemon=True)
    thread.start()
    try:
        with _telling_of_a_term():
            yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _telling_of_a_term() -> Iterator[None]:
    """A launcher sends SIGTERM to the others when one process died: they then say what to do. Not from a handler in
    Python: it would run when the main thread comes back from waiting for the dead one, which it never does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        while received := heard.recv(1):
            if received[0] == signal.SIGTERM:
                _end(f"ended by its launcher, since another process has failed or was killed. {AGAIN}", 143)

    thread = threading.Thread(target=listen, name="term", daemon=True)
    thread.start()
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, handler)
        told.close()
        thread.join()
        heard.close()


def _end(why: str, code: int) -> None:
    sys.stderr.write(f"process {os.environ.get('RANK', '?')}: {why}\n")
    sys.stderr.flush()
    os._exit(code)  # the main thread may be waiting for the others, and hears nothing


@contextmanager
def naming_a_lost_process() -> Iterator[None]:
    """Turns the errors of talk with a process that is gone into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        lost = ("closed by peer", "reset by peer", "Connection refused", "Timed out waiting")
        if is_launched() and any(sign in str(error) for sign in lost):
            raise UserError(f"process {os.environ.get('RANK', '?')}: another process is gone", hint=AGAIN) from error
        raise


@dataclass
class _Sign:
    """The file of one process: `beats` grows as long as it lives, `done` with its work, `where` is its present work."""

    beats: int = 0
    done: int = 0
    where: str = "starting"
    who: str = ""


class Pulse:
    """The signs of life of one of `world` processes, in `folder`, and its look at the others'."""

    def __init__(
        self, folder: Path, rank: int, world: int, *, every: float = EVERY, patience: float = PATIENCE
    ) -> None:
        self.folder, self.rank, self.world = folder, rank, world
        self.every, self.patience = every, patience
        self.sign = _Sign(who=f"pid {os.getpid()} on {socket.gethostname()}")
        self.named: set[int] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: dict[int, tuple[_Sign, float, float]] = {}  # sign, when it last beat, when it last got further

    def __enter__(self) -> Pulse:
        if self.world > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            (self.folder / str(self.rank)).unlink(missing_ok=True)  # a process that has ended is not waited for
            if self.rank == 0:
                shutil.rmtree(self.folder, ignore_errors=True)

    def further(self, where: str | None = None) -> None:
        """A piece of work has begun or ended, the same in every process."""
        self.sign.done += 1
        if where is not None:
            self.sign.where = where

    @contextmanager
    def apart(self, where: str) -> Iterator[None]:
        """Inside, the others may wait for this process and nothing is wrong: it evaluates, or writes."""
        before, self.sign.where = self.sign.where, f"({where})"
        try:
            yield
        finally:
            self.sign.where = before

    def _run(self) -> None:
        while True:
            self.sign.beats += 1
            try:
                write_text(self.folder / str(self.rank), json.dumps(asdict(self.sign)))
                self._look(time.monotonic())
            except OSError:  # a full disk or a folder taken away is for the training itself to meet
                pass
            if self._over.wait(self.every):
                return

    def _look(self, now: float) -> None:
        """Read all signs; report processes that are missing or behind. Times are this process's own: clocks differ."""
        for rank in range(self.world):
            try:
                sign = _Sign(**json.loads((self.folder / str(rank)).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):  # not begun, ended, or on another machine's disk
                self._seen.pop(rank, None)
                continue
            old = self._seen.get(rank)
            beat = old[1] if old is not None and old[0].beats == sign.beats else now
            got = old[2] if old is not None and old[0].done == sign.done else now
            self._seen[rank] = (sign, beat, got)
        silent = {rank for rank, (_, beat, _) in self._seen.items() if now - beat > self.patience}
        living = sorted(set(self._seen) - silent)
        first = min((got for rank in living for sign, _, got in [self._seen[rank]]), default=now)
        furthest = max((self._seen[rank][0].done for rank in living), default=0)
        stuck = {
            rank
            for rank in living
            if now - first > self.patience
            and self._seen[rank][0].done < furthest
            and not self._seen[rank][0].where.startswith("(")
            and all(now - got > self.patience for _, _, got in self._seen.values())
        }
        wrong = silent | stuck
        if (living and living[0] == self.rank) or (len(living) > 1 and living[0] in stuck and living[1] == self.rank):
            for rank in sorted(wrong - self.named):
                sign, beat, got = self._seen[rank]
                what = (
                    f"has given no sign of life for {now - beat:.0f} s"
                    if rank in silent
                    else f"is behind: the others have waited for it for {now - got:.0f} s"
                )
                self._say(f"process {rank} of {self.world} ({sign.who}; {sign.where}) {what}")
            for rank in sorted(self.named - wrong):
                self._say(f"process {rank} of {self.world} is back")
        self.named = wrong

    def _say(self, line: str) -> None:
        logger.warning(line)
        if self.rank:  # only the first process's log is shown
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
