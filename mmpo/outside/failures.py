"""Failures while reading data from outside, each reported as one clear line that names the file."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mmpo.errors import Quarantined, UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Unreadable(ValueError):
    """Text that can't be taken in. `line` counts from 1, None where it is not known."""

    def __init__(self, problem: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.line, self.hint = problem, line, hint

    def at(self, where: str, *, lines: bool = True) -> UserError:
        """As a mistake in `where`; with `lines` the line is added to it."""
        place = f"{where}:{self.line}" if lines and self.line is not None else where
        return UserError(f"{place}: {self.problem}", hint=self.hint)


FAILURES: tuple[type[Exception], ...] = (
    RuntimeError, MemoryError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError, OSError, EOFError,
)  # fmt: skip
"""Errors that a foreign file may cause in code that trusted its shape. Arrow's errors are among them."""


@contextmanager
def naming(path: str | Path, what: str = "") -> Iterator[None]:
    """Turns an error in the block into a UserError that reports a mistake in the file `path`.

    For libraries that raise whatever they meet (Arrow, safetensors, Jinja) and for shapes no reader thought of. The
    trace is kept: MMPO_DEBUG=1 shows it, and the log has it.
    """
    try:
        yield
    except (UserError, Quarantined):
        raise
    except Unreadable as error:
        raise error.at(str(path)) from None
    except (*FAILURES, *_library_errors()) as error:
        log.debug("%s can't be read", path, exc_info=True)
        kind = f" as {what}" if what else ""
        detail = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: cannot be read{kind} ({detail})", hint="is it whole, and of that kind?") from error


def _library_errors() -> tuple[type[BaseException], ...]:
    """The errors of libraries that don't derive from the above, of those that are loaded."""
    found = []
    for module, name in (("safetensors", "SafetensorError"), ("jinja2", "TemplateError"), ("csv", "Error")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def names_its_file(what: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A reader whose first argument is the file: whatever fails in it names the file, see `naming`. Generators too."""

    def around(reader: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(reader)
        def function(path: Any, *args: Any, **kwargs: Any) -> T:
            with naming(path, what):
                found = reader(path, *args, **kwargs)
            return _named(path, what, found) if inspect.isgenerator(found) else found  # type: ignore[return-value]

        return function

    return around


def _named(path: Any, what: str, items: Iterable[Any]) -> Iterator[Any]:
    with naming(path, what):
        yield from items


def first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
