"""Output of the command line: progress (bars on a terminal, lines elsewhere), results, errors, next steps."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from mmpo.progress_display import BarReporter, LineReporter
from mmpo.visible import SafeConsole, visible

PIPE_WIDTH = 120
"""Columns of a table where there is no terminal and COLUMNS is not set."""


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return SafeConsole(stderr=stderr, highlight=False, width=width)


out = _console(stderr=False)
err = _console(stderr=True)


def fail(message: str, hint: str | None = None, *, label: str = "error: ") -> None:
    """One clear line on stderr, and the remedy under it."""
    err.print(Text.assemble((label, "bold red"), visible(message)), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("  hint: " if label else "  ", "bold"), visible(hint)), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr; work continues."""
    err.print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=True)


def heading(text: str) -> None:
    out.print(Text(visible(text), style="bold"), soft_wrap=True)


def line(text: str) -> None:
    """A line of result under a heading; never broken, so that paths and commands can be copied."""
    out.print(Text(f"  {visible(text)}"), soft_wrap=True)


def next_steps(steps: Iterable[tuple[str, str]]) -> None:
    """Print next steps: `(why, command)` pairs."""
    steps = list(steps)
    if not steps:
        return
    out.print()
    heading("next")
    for why, command in steps:
        line(why)
        out.print(Text(f"    {visible(command)}", style="cyan"), soft_wrap=True)


def command_line(*words: object) -> str:
    """Words as one command to paste into a shell."""
    return shlex.join(str(word) for word in words)


def reporter() -> BarReporter | LineReporter:
    """Bars where stdout is a terminal, else lines."""
    return BarReporter(out) if out.is_terminal else LineReporter(out)
