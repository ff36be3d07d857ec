"""Scores of pairs, looked at before they are read: a missing one, or one out of its range, is refused by name."""

from __future__ import annotations

import math

from torch import Tensor

from mmpo.errors import UserError
from mmpo.types import SCORES_HINT, PairLogps


def scored(
    pairs: PairLogps, objective: str, name: str, lowest: float | None = None, highest: float | None = None
) -> Tensor:
    """The score of that name of every pair [b], in the dtype of the log-probs. Raises `UserError`, which names the
    objective and the score, where one is missing, not finite or out of range."""
    must_have(pairs, objective, name)
    score = pairs.score(name).detach().to(pairs.chosen.policy)
    if missing := int(score.isnan().sum()):
        raise UserError(
            f"{objective} reads scores.{name}, which {missing} of {len(score)} pairs of a batch lack (NaN)",
            hint="give every pair the score, or drop those without",
        )
    check_range(score, objective, name, lowest, highest)
    return score


def must_have(pairs: PairLogps, objective: str, name: str) -> None:
    if name not in pairs.scores:
        there = f"they have {', '.join(sorted(pairs.scores))}" if pairs.scores else "they have none"
        raise UserError(f"{objective} reads scores.{name} of the pairs, and {there}", hint=SCORES_HINT)


def check_range(score: Tensor, objective: str, name: str, lowest: float | None, highest: float | None) -> None:
    low, high = -math.inf if lowest is None else lowest, math.inf if highest is None else highest
    wrong = score[~score.isfinite() | (score < low) | (score > high)]
    if len(wrong):
        expected = "be a finite number" if lowest is None else f"be at least {lowest:g}"
        if None not in (lowest, highest):
            expected = f"be from {round(low)} to {round(high)}"  # (bounds have room for half precision)
        raise UserError(
            f"{objective} reads scores.{name}, which must {expected} (it is {wrong[0].item():g})",
            hint="rescale the scores" if lowest is not None else None,
        )


def of_pairs(wrong: list[int], among: Tensor) -> str:
    """`not so for 1 of 3 pairs of a batch; the first has`, and its scores follow."""
    return f"not so for {len(wrong)} of {len(among)} pairs of a batch; the first has"
