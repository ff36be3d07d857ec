"""Progress reports of long work, independent of who shows them.

A stage writes `for row in track(rows, "checking descriptions", total=n)`, or opens a `task` and advances it. Used from
Python nothing is printed. The command line installs a reporter: bars on a terminal, plain lines elsewhere; so does what
`import mmpo` offers: bars on a terminal, a moving line in a notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class ProgressTask(Protocol):
    """One running piece of work."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """`steps` more are done; `note` is a short live remark such as `loss 0.31`."""

    def extend(self, total: int | None) -> None:
        """`total` more will come; None where that is unknown."""

    def close(self, *, finished: bool) -> None:
        """The work ended: `finished`, or stopped by an error."""


class Reporter(Protocol):
    """The interface of what shows progress."""

    def begin(self, label: str, total: int | None) -> ProgressTask:
        """A new task starts; `total` is None where the length is unknown."""


class _Silent:
    def begin(self, label: str, total: int | None) -> ProgressTask:
        return self

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        return None

    def extend(self, total: int | None) -> None:
        return None

    def close(self, *, finished: bool) -> None:
        return None


class _Steady:
    """A reporter whose counts only go up: work of one label that comes again and again inside a longer task (a judge in
    every unit of a build, an evaluation now and then) is one task that grows, and closes with the longer one."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.outer: _Outer | None = None

    def begin(self, label: str, total: int | None) -> ProgressTask:
        if self.outer is not None:
            return self.outer.inner(label, total)
        self.outer = _Outer(self, self.reporter.begin(label, total))
        return self.outer


class _Outer:
    def __init__(self, owner: _Steady, task: ProgressTask) -> None:
        self._owner, self._task = owner, task
        self._inner: dict[str, _Inner] = {}
        self.advance = task.advance

    def extend(self, total: int | None) -> None:
        self._task.extend(total)

    def inner(self, label: str, total: int | None) -> _Inner:
        if label in self._inner:
            self._inner[label].extend(total)
        else:
            self._inner[label] = _Inner(self._owner.reporter.begin(label, total))
        return self._inner[label]

    def close(self, *, finished: bool) -> None:
        self._owner.outer = None
        for inner in self._inner.values():
            inner.task.close(finished=inner.finished)
        self._task.close(finished=finished)


class _Inner:
    def __init__(self, task: ProgressTask) -> None:
        self.task, self.finished = task, True
        self.advance = task.advance

    def extend(self, total: int | None) -> None:
        self.task.extend(total)

    def close(self, *, finished: bool) -> None:
        self.finished = finished


_SILENT = _Silent()
_reporter: ContextVar[Reporter] = ContextVar("mmpo_progress", default=_SILENT)


def listened_to() -> bool:
    """True if a reporter is installed here already."""
    return _reporter.get() is not _SILENT


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Inside the block, `task` and `track` report to `reporter`."""
    token = _reporter.set(_Steady(reporter))
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def task(label: str, total: int | None = None) -> Iterator[ProgressTask]:
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
