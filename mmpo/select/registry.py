"""Selectors by name: mmpo's own and those of plug-ins.

    @selector("lucky")
    class Lucky(SelectorSettings):
        \"\"\"Pairs whose score `luck` is above a number.\"\"\"

        least: float = 0.5

        def reads(self) -> tuple[str, ...]:
            return ("scores.luck",)

        def choose(self, table: PairTable, seed: int) -> Choice:
            return Choice(dropped={"unlucky": table["scores.luck"] < self.least})

A recipe then says `select: {by: [{lucky: {least: 0.9}}]}`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from mmpo.errors import UserError
from mmpo.registry import Registry
from mmpo.select.margins import Mask, Numbers, Places
from mmpo.select.table import SCORES, PairTable
from mmpo.settings import Settings


def _share_or_number(keep: float) -> float:
    if keep > 1 and keep != int(keep):
        raise ValueError("up to 1 it is a share of the pairs, above 1 a whole number of them")
    return keep


Keep = Annotated[float, Field(gt=0), AfterValidator(_share_or_number)]
"""How many of the ranked pairs are kept."""


@dataclass(frozen=True)
class Choice:
    """What a selector says of n pairs. `dropped`: reason -> [n] bool, the first reason counts. `values` [n]: the
    greatest are kept (as many as `keep` says). `stages` [n]: place in training, 0 first. `columns` [n] become scores of
    the new pairs. `figures` are numbers that it found, for people."""

    dropped: Mapping[str, Mask] = field(default_factory=dict)
    values: Numbers | None = None
    stages: Places | None = None
    columns: Mapping[str, Numbers] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


class SelectorSettings(Settings):
    """One step of a selection: what a recipe sets, and the rule. The docstring's first line is its description."""

    ranks: ClassVar[bool] = False
    """It gives `values`, and has a setting `keep`."""
    orders: ClassVar[bool] = False
    """It gives `stages`."""
    abstains: ClassVar[bool] = False
    """It is given pairs that lack some of what it reads; others are dropped before."""

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The columns of `PairTable` that it needs with these settings."""

    def gaps(self) -> tuple[ScoreGap, ...]:
        """The gaps of scores that it reads, whose means the report gives."""
        return ()

    @abstractmethod
    def choose(self, table: PairTable, seed: int) -> Choice:
        """The choice among the pairs of `table`. It depends on nothing else; `seed` decides what is drawn."""


class ScoreGap(Settings):
    """Scores of the pairs whose gap says how far the chosen response is ahead."""

    chosen: str = Field(default="chosen", min_length=1, description="The score of the chosen response.")
    rejected: str = Field(default="rejected", min_length=1, description="The score of the rejected one.")
    margin: str | None = Field(
        default=None, min_length=1, description="One score that is the gap already, in the place of the two."
    )
    lower_is_better: bool = Field(default=False, description="The better response has the lower score (errors, ranks).")

    @model_validator(mode="after")
    def _one_kind(self) -> ScoreGap:
        if self.margin is not None and self.model_fields_set & {"chosen", "rejected"}:
            raise ValueError("either `margin`, or `chosen` and `rejected`")
        return self

    @property
    def label(self) -> str:
        return self.margin or f"{self.chosen} - {self.rejected}"

    def columns(self) -> tuple[str, ...]:
        names = (self.chosen, self.rejected) if self.margin is None else (self.margin,)
        return tuple(SCORES + name for name in names)

    def of(self, table: PairTable) -> Numbers:
        """[n], positive where chosen is better."""
        columns = [table[name] for name in self.columns()]
        gap = columns[0] - columns[1] if len(columns) == 2 else columns[0]
        return -gap if self.lower_is_better else gap


def as_list(value: object) -> object:
    """A single block of settings as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _check(name: str, found: type[SelectorSettings]) -> None:
    if not name.isidentifier():
        raise UserError(f"{name!r} is no name of a selector", hint="a word such as my_margin")
    if not (isinstance(found, type) and issubclass(found, SelectorSettings)):
        raise UserError(f"the selector {name!r} is no class of mmpo.select.registry.SelectorSettings")
    if found.ranks and "keep" not in found.model_fields:
        raise UserError(f"the selector {name!r} ranks pairs and has no setting `keep`", hint="keep: Keep = 0.5")


SELECTORS: Registry[type[SelectorSettings]] = Registry("selectors", check=_check)
S = TypeVar("S", bound=type[SelectorSettings])


def selector(name: str) -> Callable[[S], S]:
    """Make a class of `SelectorSettings` a step that recipes can name. Raises `UserError` for a name that is taken."""

    def add(found: S) -> S:
        SELECTORS.add(name, found, module=found.__module__)
        return found

    return add


def finite(values: Numbers) -> Mask:
    return np.isfinite(values)
