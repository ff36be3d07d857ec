"""A record with everything that an objective may read, and nothing in it: to run a loss before there is a model, and to
learn from it what it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.registry import OBJECTIVES
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps

if TYPE_CHECKING:
    from mmpo.objectives.build import Objective


def with_blanks(response: ResponseLogps, *, aspects: int = 1) -> ResponseLogps:
    """The responses with a blank for every field that a loss may read and they lack: log-probs and divergences -1 and
    0 as long as the response, one turn, step and segment, this with `aspects` scores."""
    mask, blank = response.mask, response.mask.to(response.policy.dtype)
    states = blank[..., None]
    part, score = torch.zeros_like(mask, dtype=torch.long), blank.new_ones(len(mask), 1)
    more: dict[str, Tensor] = {
        "tail_kl": 0 * blank,
        "log_sum_squares": -blank,
        "eos_policy": -blank,
        "eos_reference": -blank,
        "label_logit": blank,
        "label_logit_corrupted": blank,
        "reference_label_logit": blank,
        "reference_label_logit_corrupted": blank,
        "turns": part,
        "steps": part,
        "step_scores": score,
        "segments": part,
        "segment_scores": blank.new_ones(len(mask), 1, aspects),
        "positions": mask,
        "second_reference": -blank,
    }
    return replace(
        response,
        reference=-blank if response.reference is None else response.reference,
        weights=blank if response.weights is None else response.weights,
        policy_hidden=states if response.policy_hidden is None else response.policy_hidden,
        reference_hidden=states if response.reference_hidden is None else response.reference_hidden,
        kl=0 * blank if response.kl is None else response.kl,
        more={**more, **response.more},
    )


def filled(pairs: PairLogps) -> PairLogps:
    """The record of pairs with a blank in every field that a loss may read and it lacks, but for token weights. One
    sample for each pair."""

    def side(response: ResponseLogps) -> ResponseLogps:
        return replace(with_blanks(response), weights=response.weights)

    def of_groups(groups: ResponseGroups) -> ResponseGroups:
        other = groups.mismatched
        return replace(groups, responses=side(groups.responses), mismatched=None if other is None else side(other))

    chosen, auxiliary, groups = side(pairs.chosen), pairs.auxiliary, pairs.groups
    return replace(
        pairs,
        chosen=chosen,
        rejected=side(pairs.rejected),
        views={spec: side(view) for spec, view in pairs.views.items()},
        auxiliary=None if auxiliary is None else side(auxiliary),
        groups=None if groups is None else of_groups(groups),
        samples=chosen if pairs.samples is None else side(pairs.samples),
        samples_of=torch.arange(len(pairs)) if pairs.samples_of is None else pairs.samples_of,
    )


def stand_in(objective: Objective) -> PairLogps:
    """One pair of one token, with all that this objective reads."""
    one = torch.ones(1, 1)
    weights = (given.get("aspects") for given in objective.parameters.values())
    aspects = max((len(given) for given in weights if isinstance(given, list)), default=1)
    side = with_blanks(ResponseLogps(-one, -one, one.bool()), aspects=aspects)
    score = torch.ones(1)
    return PairLogps(
        side,
        side,
        dict.fromkeys(objective.views, side),
        auxiliary=side,
        scores={"chosen": score, "rejected": score / 2, "similarity": score, "weight": score},
        groups=ResponseGroups(side, torch.zeros(1, dtype=torch.long), score, mismatched=side),
        samples=side,
        samples_of=torch.zeros(1, dtype=torch.long),
    )


def takes_unscored(objective: Objective) -> bool:
    """True if its terms of groups and of single responses take a response without a score."""
    pairs = stand_in(objective)
    assert pairs.groups is not None
    unscored = replace(pairs.groups, scores=torch.full_like(pairs.groups.scores, math.nan))
    try:
        objective.without("pairs", "auxiliary").terms(replace(pairs, groups=unscored))
    except UserError:
        return False
    return True


# ---- which scores


def of_scores(objective: Objective) -> Objective:
    """Its losses that read scores of pairs."""
    reads = {name: OBJECTIVES[name].reads_of(objective.parameters.get(name, {})) for name in objective.weights}
    return replace(objective, weights={n: weight for n, weight in objective.weights.items() if "scores" in reads[n]})


def scores_read(objective: Objective) -> dict[str, bool]:
    """The scores that an objective reads, by name; true where it needs that of every pair. Its losses tell: each is
    run on a pair with all scores, and again without each that it looked at."""
    losses = of_scores(objective)
    if not losses.weights:
        return {}
    pairs = stand_in(losses)
    watched = _Watched(pairs.scores)
    losses.terms(replace(pairs, scores=watched))
    return {name: _needs(losses, pairs, name) for name in pairs.scores if name in watched.read}


class _Watched(dict[str, Tensor]):
    """Scores that know which of them were read."""

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        super().__init__(scores)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def _needs(losses: Objective, pairs: PairLogps, name: str) -> bool:
    """True if a pair without that score is refused, or has no loss."""
    without = {**pairs.scores, name: torch.full_like(pairs.scores[name], math.nan)}
    try:
        terms = losses.terms(replace(pairs, scores=without))
    except UserError:
        return True
    return not all(bool(term.values.isfinite().all()) for _, term in terms.values())
