"""Text of data as a command prints it."""

from __future__ import annotations

import sys
from typing import Any

import typer

from mmpo.visible import HALF, code, visible


def echo(text: str, **options: Any) -> None:
    """`typer.echo` for text that holds data: as it is into a file or a pipe, visible on a terminal."""
    typer.echo(visible(text) if sys.stdout.isatty() else HALF.sub(code, text), **options)
