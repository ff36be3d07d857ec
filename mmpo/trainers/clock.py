"""Duration and speed of training, without the time that evaluation and saving take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """`seconds` counts everything since the start, `before` included; `lap` leaves the pauses out.

    `count` is the work done before the clock starts.
    """

    def __init__(self, before: float = 0.0, count: int = 0) -> None:
        self._before = before
        self._start = self._lap_start = time.perf_counter()
        self._paused = 0.0
        self._count = count

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside does not count towards the lap."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began

    def lap(self, count: int) -> tuple[int, float]:
        """Work done and seconds spent on it since the last lap."""
        now = time.perf_counter()
        done, spent = count - self._count, max(now - self._lap_start - self._paused, 1e-9)
        self._count, self._lap_start, self._paused = count, now, 0.0
        return done, spent
