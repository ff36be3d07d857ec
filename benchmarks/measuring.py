"""What measurements of speed share: their command line, steps in turns, peak memory, processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEMORY_RETURNED = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment without arenas a thread, where freed blocks go back at once: peaks follow what is really in use."""


def command_line(description: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """A parser whose help is the module's own text, with `--json`, and with `--threads` where they have a default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers here")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads)
    return parser


def seconds_in_turns(
    steps: Mapping[str, Callable[[], Any]], rounds: int, wait: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each step by round. They take turns, so that other load on the machine meets all alike; `wait` ends
    when the device has done its work."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds):
        # Whoever comes after the first finds cold caches and memory just given back: take turns.
        for name in order if number % 2 == 0 else [order[0], *order[:0:-1]]:
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def in_own_process(file: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """The JSON in the last line that the script `file` prints when it is called with `words`."""
    command = [sys.executable, file, *words]
    done = subprocess.run(command, env=os.environ | (environment or {}), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """Most MiB that this process held in memory so far."""
    # Unlike ru_maxrss the first is not inherited from the process that started this one.
    return _status_mib("VmHWM:") or _greatest_resident_mib()


def restart_peak() -> float:
    """MiB held now; on Linux the peak starts here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _greatest_resident_mib()
    return _status_mib("VmRSS:") or _greatest_resident_mib()


def _status_mib(key: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)


def _greatest_resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform != "darwin" else 1024) / 1024
