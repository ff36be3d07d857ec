"""Jinja templates that others wrote (a model's chat template, a judge's prompt), run within limits.

Jinja's sandbox keeps a template from Python; it does not keep it from looping for ever or from making text until the
memory is full. `BoundedEnvironment` does, inside `limited()`: loops and calls are counted and look at the clock, and
every way to make a large text from a small one (repetition, powers, widths, `replace`, `join` …) is looked at before
it is done. Outside `limited()`, and for templates within the limits, it renders exactly as its base class.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from mmpo.outside.failures import first_line

SECONDS = 10.0
LONGEST = 10_000_000
"""Characters of one text, items of one list."""
ALTOGETHER = 10 * LONGEST
"""Characters and items that all operations of a rendering may make together."""
STEPS = 20_000_000
"""Turns of loops, each counted by the size of its body, and calls."""
BITS = 4096

_LONG_WIDTH = re.compile(r"\d{7,}")
_MULTIPLY = frozenset(
    (
        "replace", "join", "center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate",
        "indent", "tojson", "wordwrap", "batch", "slice", "xmlattr", "urlize",
    )
)  # fmt: skip
"""Methods of texts, and filters, whose result may be as long as the product of what they are given."""


class TemplateTooMuch(Exception):
    """A template that loops without end, or makes more text than any prompt has."""


class _Budget:
    def __init__(self) -> None:
        self.until = time.monotonic() + SECONDS
        self.steps, self.made = STEPS, ALTOGETHER

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise TemplateTooMuch(f"it takes more than {STEPS:,} steps")
        if time.monotonic() > self.until:
            raise TemplateTooMuch(f"it runs for more than {SECONDS:g} seconds")

    def make(self, size: int) -> None:
        """Before or after something of `size` characters or items is made."""
        self.made -= size
        if size > LONGEST or self.made < 0:
            raise TemplateTooMuch(f"it makes a text or list of more than {LONGEST:,} characters or items")


_budget: ContextVar[_Budget | None] = ContextVar("template budget", default=None)


@contextmanager
def limited() -> Iterator[None]:
    """Inside the block what a `BoundedEnvironment` compiles and renders is counted. Raises `TemplateTooMuch`, also
    where Python itself stops: a template calls itself without end, or the memory is full.
    """
    token = _budget.set(_Budget())
    try:
        yield
    except (RecursionError, MemoryError) as error:
        raise TemplateTooMuch(f"{type(error).__name__}: {first_line(error)}") from None
    finally:
        _budget.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, counted (see the module)."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.globals.pop("lipsum", None)  # makes any amount of text, and no prompt wants it
        own = _Filters()
        for name, function in self.filters.items():
            own[name] = function
        dict.__setitem__(own, _LOOP, _looped)
        dict.__setitem__(own, _TEXT, _text)
        self.filters = own

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Joins what a template, a macro or a block has written."""
        if _budget.get() is None:
            return "".join(pieces)
        return "".join(_counted_pieces(pieces))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Watch().visit(source).set_environment(self), *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if (budget := _budget.get()) is not None:
            _look_at_operator(budget, operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        if budget is None:
            return super().call(__context, __obj, *args, **kwargs)
        budget.step()
        own = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # of a method; `format` comes wrapped
        if isinstance(own, str):
            _look_at_text(budget, getattr(__obj, "__name__", ""), own, (*args, *kwargs.values()))
        found = super().call(__context, __obj, *args, **kwargs)
        budget.make(_size(found))
        return found


_LOOP, _TEXT = "mmpo loop", "mmpo text"  # with a space: no template can name them


class _Watch(NodeTransformer):
    """Puts a count at every loop, and at every text that is put together with `~`."""

    def visit_For(self, loop: nodes.For) -> nodes.For:
        weight = 1 + sum(1 for _ in loop.find_all(nodes.Node))
        self.generic_visit(loop)
        loop.iter = nodes.Filter(loop.iter, _LOOP, [nodes.Const(weight)], [], None, None, lineno=loop.lineno)
        return loop

    def visit_Concat(self, text: nodes.Concat) -> nodes.Filter:
        self.generic_visit(text)
        return nodes.Filter(text, _TEXT, [], [], None, None, lineno=text.lineno)


def _looped(items: Any, weight: int) -> Any:
    budget = _budget.get()
    if budget is None:
        return items
    if isinstance(items, Sized):
        budget.step(len(items) * weight)
        return items
    return _counted(items, weight, budget)


def _counted(items: Iterable[Any], weight: int, budget: _Budget) -> Generator[Any, None, None]:
    for item in items:
        budget.step(weight)
        yield item


def _text(text: Any) -> Any:
    if (budget := _budget.get()) is not None:
        budget.make(_size(text))
    return text


def _counted_pieces(pieces: Iterable[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        if piece:
            total += len(piece)
            if total > LONGEST:
                raise TemplateTooMuch(f"it makes a text of more than {LONGEST:,} characters")
            yield piece


class _Filters(dict[str, Callable[..., Any]]):
    """Filters that check their arguments before they work, wherever they come from."""

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        super().__setitem__(name, _bounded(name, function))


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # behind a context or environment comes the value

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        if budget is None:
            return function(*args, **kwargs)
        budget.step()
        if len(args) > first:
            _look_at_text(budget, name, args[first], (*args[first + 1 :], *kwargs.values()))
        found = function(*args, **kwargs)
        budget.make(_size(found))
        return found

    return watched


def _look_at_operator(budget: _Budget, operator: str, left: Any, right: Any) -> None:
    budget.step()
    if operator == "+":
        budget.make(_size(left) + _size(right))
    elif operator == "%" and isinstance(left, str):
        _look_at_text(budget, "format", left, right if isinstance(right, tuple) else (right,))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > BITS:
            raise TemplateTooMuch(f"it computes a number of more than {BITS:,} bits")
    elif operator == "*":
        count = next((one for one in (left, right) if isinstance(one, int)), 1)
        budget.make(max(count, 0) * max(_size(left), _size(right)))


def _look_at_text(budget: _Budget, name: str, value: Any, given: Iterable[Any]) -> None:
    """A method of a text, or a filter, before it works on `value`."""
    factor = 1
    for one in given:
        if isinstance(one, int) and abs(one) > LONGEST:
            raise TemplateTooMuch(f"{name} is given the number {one:.3g}")
        factor = max(factor, abs(one) if isinstance(one, int) else _size(one))
    if name not in _MULTIPLY:
        return
    if isinstance(value, str) and name in ("format", "format_map") and _LONG_WIDTH.search(value):
        raise TemplateTooMuch("it asks for a text of a width of seven digits")
    if (size := max(_size(value), 1) * factor) > ALTOGETHER:
        raise TemplateTooMuch(f"{name} may make {size:,} characters")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | set | Mapping) else 0
