"""Errors a person can act on: one line that says what is wrong and where, one that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable

LONGEST = 1500
"""Characters of a message: it may quote a value from a file, of any size."""


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 300]} … {text[-290:]}"


class UserError(Exception):
    """A mistake in the input (a file, a recipe, an argument), not in mmpo. The command line prints it without a trace.

    `hint` names the remedy, e.g. `UserError("pairs.jsonl:7: no `chosen`", hint="add the key or drop the row")`.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message, hint = _bounded(message), hint and _bounded(hint)
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")
        self.message = message
        self.hint = hint


class Quarantined(Exception):
    """One source cannot be used. The builder turns it into a row of `rejects.jsonl` and continues.

    `stage` is where it happened (`decode`, `detect`, …), `reason` a short stable slug that is counted, `detail` free
    text.
    """

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail


def in_one_line(main: Callable[[], object]) -> None:
    """Run a script's `main`: a mistake in its input ends it with the error's line and status 2, as in the command
    line."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
