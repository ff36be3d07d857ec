"""Mistakes in a recipe, one record for each, and their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mmpo.errors import UserError
from mmpo.recipes.source import KeyPath, RecipeSource


@dataclass(frozen=True)
class Problem:
    """One mistake at one key. `error` False: a warning, work may start."""

    path: KeyPath
    message: str
    hint: str | None = None
    error: bool = True

    def text(self, source: RecipeSource) -> str:
        """`my.yaml:6: train.objective.dpo.beta: must be a number (it is 'abc')`, and the remedy below it."""
        name = ".".join(self.path)
        line = f"{source.place(self.path)}: {name}: {self.message}" if name else f"{source.where}: {self.message}"
        return line + (f"\n  hint: {self.hint}" if self.hint else "")


def in_order(source: RecipeSource, problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, those of the file by line, then those of `--set`."""
    return sorted(
        dict.fromkeys(problems), key=lambda one: (source.place(one.path).startswith("--set"), source.line(one.path))
    )


def refusal(source: RecipeSource, problems: Iterable[Problem]) -> UserError:
    """One error that lists them all."""
    return listed(in_order(source, problems), lambda one: one.text(source))


def listed(problems: Sequence[Problem], text: Callable[[Problem], str]) -> UserError:
    """One error that lists them all, each as `text` gives it with its remedy; a single one keeps its hint apart."""
    if len(problems) == 1:
        return UserError(text(replace(problems[0], hint=None)), hint=problems[0].hint)
    return UserError("\n".join([f"{len(problems)} mistakes", *map(text, problems)]))
