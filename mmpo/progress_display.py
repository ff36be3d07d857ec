"""Displays of progress: bars on a terminal, plain lines elsewhere, a cell's own line in a notebook."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmpo.visible import visible

LINE_SECONDS = 10.0
"""Without a terminal, a running task prints at most one line in this time."""


def duration(seconds: float) -> str:
    """`8.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class BarReporter:
    """Progress bars on a terminal. A finished task leaves its line."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=console,
        )
        self._running = 0

    def begin(self, label: str, total: int | None) -> _Bar:
        if self._running == 0:
            self._progress.start()
        self._running += 1
        return _Bar(self, self._progress.add_task(escape(visible(label)), total=total, note=""))

    def advance(self, bar: TaskID, steps: int, note: str | None) -> None:
        self._progress.advance(bar, steps)
        if note is not None:
            self._progress.update(bar, note=escape(visible(note)))

    def extend(self, bar: TaskID, total: int | None) -> None:
        known = self._progress.tasks[self._progress.task_ids.index(bar)].total
        self._progress.update(bar, total=None if total is None or known is None else known + total)

    def close(self, bar: TaskID, finished: bool) -> None:
        if finished:
            done = self._progress.tasks[self._progress.task_ids.index(bar)].completed
            self._progress.update(bar, total=max(done, 1), completed=max(done, 1))
        self._running -= 1
        if self._running == 0:
            # Stopping leaves the finished bars on the screen; a fresh list keeps them from being drawn again.
            self._progress.stop()
            for task in self._progress.task_ids:
                self._progress.remove_task(task)


class _Bar:
    def __init__(self, owner: BarReporter, bar: TaskID) -> None:
        self._owner = owner
        self._bar = bar

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self._owner.advance(self._bar, steps, note)

    def extend(self, total: int | None) -> None:
        self._owner.extend(self._bar, total)

    def close(self, *, finished: bool) -> None:
        self._owner.close(self._bar, finished)


class LineReporter:
    """Progress as plain lines, for logs and pipes: one at the start, one now and then, one at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, label: str, total: int | None) -> _Lines:
        return _Lines(self.console, label, total)


class _Lines:
    def __init__(self, console: Console, label: str, total: int | None) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._done = 0
        self._note = ""
        self._started = self._said = time.monotonic()
        self._said_done = -1

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self._done += steps
        if note is not None:
            self._note = note
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._say("")

    def extend(self, total: int | None) -> None:
        self._total = None if total is None or self._total is None else self._total + total

    def close(self, *, finished: bool) -> None:
        if not finished or self._done != self._said_done:
            self._say("" if finished else "stopped")

    def _say(self, state: str) -> None:
        self._said, self._said_done = time.monotonic(), self._done
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        parts = [count, duration(self._said - self._started), self._note, state]
        self._console.print(
            Text(visible(f"  {self._label}: {', '.join(part for part in parts if part)}")), soft_wrap=True
        )
