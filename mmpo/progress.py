"""How long work says how far it is, without knowing who listens.

A stage writes `for row in track(rows, "checking descriptions", total=n)`, or opens a `task` and advances it. Used from
Python nothing is printed. The command line installs a reporter: bars on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Task(Protocol):
    """One running piece of work."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """`steps` more are done; `note` is a short live remark such as `loss 0.31`."""

    def close(self, *, finished: bool) -> None:
        """The work ended: `finished`, or stopped by an error."""


class Reporter(Protocol):
    """Whoever shows progress."""

    def begin(self, label: str, total: int | None) -> Task:
        """A new task starts; `total` is None where the length is unknown."""


class _Silent:
    def begin(self, label: str, total: int | None) -> Task:
        return self

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        return None

    def close(self, *, finished: bool) -> None:
        return None


_SILENT = _Silent()
_reporter: ContextVar[Reporter] = ContextVar("mmpo_progress", default=_SILENT)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Inside the block, `task` and `track` report to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def task(label: str, total: int | None = None) -> Iterator[Task]:
    """A piece of work to advance by hand. It closes with the block, finished or not."""
    running = _reporter.get().begin(label, total)
    finished = False
    try:
        yield running
        finished = True
    finally:
        running.close(finished=finished)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`; each is reported done when the next is asked for. `total` defaults to their number."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with task(label, total) as running:
        for item in items:
            yield item
            running.advance()
