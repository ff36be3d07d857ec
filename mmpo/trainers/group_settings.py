"""Settings of data drawn beside the pairs: how much of it, and which groups of scored responses. No torch here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mmpo.settings import PATH, Settings


def _rate(value: Any) -> Any:
    if value != "once" and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ValueError("must be a number greater than 0, or once")
    return value


PerPair = Annotated[float | Literal["once"], BeforeValidator(_rate)]
"""So many for each pair, or each once an epoch of the pairs."""


def rate_of(per_pair: float | str, rows: int, pairs: int) -> Fraction:
    """Rows drawn for each pair, of so many rows and training pairs."""
    if isinstance(per_pair, str):
        return Fraction(rows, pairs)
    return Fraction(per_pair).limit_denominator(1_000_000)


class GroupSettings(Settings):
    """Groups of scored responses, K answers to one prompt, that nca and infonca learn."""

    data: Annotated[Path, PATH] = Field(
        description="Folder of groups, as `mmpo convert --to responses` writes it; or of pairs, each a group of two."
    )
    per_pair: PerPair = Field(
        default=1.0,
        description="Groups learnt for each pair. `once`: as many as there are, spread over an epoch of the pairs.",
    )
    scores: tuple[str, str] | None = Field(
        default=None,
        description="Of a folder of pairs: the names of the scores of chosen and rejected. Left out: 1 and 0.",
    )
