"""Progress where Python runs: a moving line in a notebook's cell, bars on a terminal, nothing into a file or pipe.

rich shows bars in Jupyter only where ipywidgets is installed, and nothing at all where it isn't; a display that is
updated needs IPython alone, and works in Jupyter, Colab and VS Code alike.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from mmpo.progress import Reporter, listened_to, reporting
from mmpo.progress_display import BarReporter, duration
from mmpo.visible import SafeConsole

SHOWN_EVERY = 0.2
"""Seconds between two updates of a cell."""


@contextmanager
def showing() -> Iterator[None]:
    """Inside the block, progress and mmpo's warnings are shown, unless a reporter is installed already."""
    reporter = reporter_here()
    with _warnings_on_stderr():
        if reporter is None or listened_to():
            yield
        else:
            with reporting(reporter):
                yield


def reporter_here() -> Reporter | None:
    """The reporter that shows progress in this process; None where the output is no terminal or notebook."""
    if in_notebook():
        return NotebookReporter()
    return BarReporter(SafeConsole(highlight=False)) if sys.stdout.isatty() else None


def in_notebook() -> bool:
    """True in the kernel of a notebook. A process that has not imported IPython is none."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookReporter:
    """Progress in a notebook's cell: a line of text with a bar for each piece of work."""

    def begin(self, label: str, total: int | None) -> _CellLine:
        return _CellLine(label, total)


class _CellLine:
    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total, self._done, self._note = label, total, 0, ""
        self._started = self._shown = time.monotonic()
        import IPython.display as display

        self._html = display.HTML
        self._handle: Any = display.display(self._html(self._text("")), display_id=True)

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self._done += steps
        self._note = self._note if note is None else note
        if time.monotonic() - self._shown >= SHOWN_EVERY:
            self._show("")

    def extend(self, total: int | None) -> None:
        self._total = None if total is None or self._total is None else self._total + total

    def close(self, *, finished: bool) -> None:
        self._show("" if finished else "stopped")

    def _show(self, state: str) -> None:
        self._shown = time.monotonic()
        if self._handle is not None:
            self._handle.update(self._html(self._text(state)))

    def _text(self, state: str) -> str:
        count = f"{self._done:,}" if self._total is None else f"{self._done:,}/{self._total:,}"
        parts = [count, duration(time.monotonic() - self._started), self._note, state]
        bar = ""
        if self._total:
            bar = f'<progress value="{min(self._done, self._total)}" max="{self._total}"></progress> '
        return f"{bar}{escape(self._label)}: {escape(', '.join(part for part in parts if part))}"


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """mmpo's warnings where Python's own go, unless the program has handlers of its own. (Without any, Python prints
    them itself; with the run's log as the only one it would not.)"""
    root, ours = logging.getLogger(), logging.getLogger("mmpo")
    if root.handlers or ours.handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
