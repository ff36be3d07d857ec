"""Losses of single responses: rows of a response and its score, or of a response alone, that nobody paired.

They stand in the groups of a batch (`PairLogps.groups`), whose grouping means nothing here. r is beta times the summed
log-ratio of a response. A term's mean is the mean over all responses of a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.step_rule import Looked, State, StepRule
from mmpo.objectives.term import Term, log_ratio, per_pair
from mmpo.types import PairLogps, ResponseGroups

Rows = Literal["pairs", "responses"]
"""What a value of a loss belongs to: a pair, or a response of `groups.data`."""


def unit_of(values: Mapping[str, Any]) -> Rows:
    """`of` of a loss with the parameter `rows`."""
    rows: Rows = values["rows"]
    return rows


def reads_of_rows(*of_pairs: str) -> Any:
    """`reads` of a loss with the parameter `rows`, from those that it has on pairs."""
    return lambda values: of_pairs if values["rows"] == "pairs" else ("reference", "groups")


def squared_errors(pairs: PairLogps, objective: str, *, beta: float, unscored: float | None) -> Term:
    """(sigmoid(r) - s)^2 of each response, s its score in [0, 1], `unscored` where it has none. Raises `UserError` for
    a missing score where `unscored` is None, and for one out of range."""
    groups = _groups(pairs, objective)
    ratios = log_ratio(groups.responses)
    scores = groups.scores.detach().to(ratios)
    missing = scores.isnan()
    if unscored is None and bool(missing.any()):
        raise _no_score(objective, missing)
    if len(wrong := scores[~missing & ~((scores >= 0) & (scores <= 1))]):
        raise UserError(
            f"{objective} reads scores of responses from 0 to 1 (one is {wrong[0].item():g})", hint="rescale the scores"
        )
    targets = scores if unscored is None else torch.where(missing, unscored, scores)
    return per_pair((torch.sigmoid(beta * ratios) - targets) ** 2)


def values_of_good_and_bad(
    pairs: PairLogps,
    objective: str,
    *,
    beta: float,
    threshold: float,
    desirable: float,
    undesirable: float,
    point: float | Tensor,
) -> Term:
    """desirable sigmoid(-(r - beta z0)) of each response whose score is above the threshold, undesirable sigmoid(-(beta
    z0 - r)) of the others; `point` is z0. Raises `UserError` for a missing score."""
    groups = _groups(pairs, objective)
    ratios = log_ratio(groups.responses)
    scores = groups.scores.detach()
    if bool(scores.isnan().any()):
        raise _no_score(objective, scores.isnan())
    good = desirable * torch.sigmoid(-beta * (ratios - point))
    bad = undesirable * torch.sigmoid(-beta * (point - ratios))
    return per_pair(torch.where(scores > threshold, good, bad))


def _mismatched(pairs: PairLogps) -> dict[str, Tensor]:
    """Each pair's even part of the sum of the mismatched rows' log-ratios and of their number, [b]: only sums over a
    step are read."""
    ones = torch.ones_like(pairs.chosen.policy_sum.detach(), dtype=torch.float64)
    rows = None if pairs.groups is None else pairs.groups.mismatched
    if rows is None or not len(ones):
        return {"mismatched": 0 * ones, "mismatched_rows": 0 * ones}
    ratios = log_ratio(rows).detach().double()
    return {"mismatched": ratios.sum() / len(ones) * ones, "mismatched_rows": len(ratios) / len(ones) * ones}


def _point(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Any) -> Looked:
    rows = values["mismatched_rows"].sum()
    if rows < 0.5:  # a step without any: what the last one with some had
        return Looked({"z0": state["z0"]}, state)
    z0 = (values["mismatched"].sum() / rows).clamp_min(0)
    return Looked({"z0": z0}, {"z0": z0})


def _last_point(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Any) -> Looked:
    return Looked({"z0": state["z0"]}, state)


POINT_OF_ROWS = StepRule(_mismatched, _point, {"z0": 0.0}, look_without_training=_last_point)
"""KTO's point of reference from the mismatched rows beside the groups of a step. Evaluation, which is on pairs, reads
what training has come to."""


def _groups(pairs: PairLogps, objective: str) -> ResponseGroups:
    if pairs.groups is None:
        raise UserError(f"{objective} reads responses of groups, and the batch has none", hint="set groups.data")
    return pairs.groups


def _no_score(objective: str, missing: Tensor) -> UserError:
    return UserError(
        f"{objective} reads a score of every response, and {int(missing.sum())} of {math.prod(missing.shape)} have "
        "none (NaN)",
        hint="drop responses without a score; uft takes them for right answers",
    )
