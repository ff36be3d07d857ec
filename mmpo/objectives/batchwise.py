"""Losses in which the pairs of an optimizer step depend on each other, over all its micro-batches and processes.

Their value changes with the number of pairs a step, but not with how a step is cut: the trainer makes a pass without
gradient over the whole step first, and each pair then meets numbers of all of them. Notation as in `pairwise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import FlipRate, NonNegative, Positive
from mmpo.objectives.registry import Values, objective
from mmpo.objectives.single import POINT_OF_ROWS, Rows, reads_of_rows, unit_of, values_of_good_and_bad
from mmpo.objectives.step_rule import Draw, Looked, State, StepRule, found
from mmpo.objectives.term import Term, log_ratio, log_ratios, per_pair
from mmpo.types import PairLogps, ViewSpec

MISMATCHED = ViewSpec("mismatched", "other")
"""The answer of another pair, behind this pair's question and image."""


@objective("aot", step=StepRule(), paper="arXiv 2406.05882", spec="3")
def aot(pairs: PairLogps, *, beta: Positive = 0.01, paired: bool = True, eps: FlipRate = 0.0) -> Term:
    """(1-eps) softplus(-beta D) + eps softplus(beta D) of sorted quantiles D: chosen should be better in distribution.
    Melnyk et al. 2024 (arXiv 2406.05882).

    `paired` sorts the policy's gaps W - L and the reference's gaps and compares rank by rank; else the log-ratios a and
    b are sorted. Means something for dozens of pairs a step. A pair's term is that of its own rank; of a batch that is
    a step of its own the terms come in the order of the ranks.
    """
    a, b = log_ratios(pairs)
    gap = pairs.chosen.policy_sum - pairs.rejected.policy_sum
    step = pairs.step
    assert step is not None  # the registry sees to it
    if step.alone:
        theirs = pairs.chosen.reference_sum - pairs.rejected.reference_sum
        upper, lower = (gap, theirs) if paired else (a, b)
        return per_pair(_smoothed(beta * (upper.sort(stable=True).values - lower.sort(stable=True).values), eps))
    chosen, rejected, chosen_ref, rejected_ref = (step.values[name] for name in ("W", "L", "Wr", "Lr"))
    if paired:
        met = _same_rank(chosen - rejected, chosen_ref - rejected_ref)[step.own]
        return per_pair(_smoothed(beta * (gap - met), eps))
    # a and b of one rank belong to two pairs, perhaps of two processes: each takes its gradient, both half the value.
    ups, downs = chosen - chosen_ref, rejected - rejected_ref
    both = _smoothed(beta * (a - _same_rank(ups, downs)[step.own]), eps)
    both = both + _smoothed(beta * (_same_rank(downs, ups)[step.own] - b), eps)
    return per_pair(both - 0.5 * both.detach())


def _smoothed(z: Tensor, eps: float) -> Tensor:
    """The logistic loss of labels that are wrong with probability eps, as in `cdpo`."""
    return (1 - eps) * softplus(-z) + eps * softplus(z)


def _same_rank(of: Tensor, among: Tensor) -> Tensor:
    """For each number in `of` the number of the same rank in `among`, [n]. Equal ones rank in their order."""
    order = of.argsort(stable=True)
    return torch.empty_like(among).index_copy(0, order, among.sort().values)


def _mismatched(pairs: PairLogps) -> dict[str, Tensor]:
    """Each pair's part of the log-ratios of the mismatched rows and of their number [b]: there may be more or fewer
    rows than pairs, and only the sums over a step are read."""
    ratios = log_ratio(pairs.view(MISMATCHED)).detach().double()
    if len(ratios) == len(pairs):
        return {"mismatched": ratios, "mismatched_rows": torch.ones_like(ratios)}
    ones = ratios.new_ones(len(pairs))
    return {"mismatched": ratios.sum() / len(ones) * ones, "mismatched_rows": len(ratios) / len(ones) * ones}


def _point_of_reference(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    rows = values["mismatched_rows"].sum()
    if rows == 0:
        raise UserError("kto estimates z0 from mismatched rows, and a step has none", hint="give kto.z0 as a number")
    return Looked({"z0": (values["mismatched"].sum() / rows).clamp_min(0)}, {})


def _kto_rule(values: Values) -> StepRule | None:
    if values["z0"] != "estimated":
        return None
    return _KTO if values["rows"] == "pairs" else POINT_OF_ROWS


def _known_point(values: Values) -> str:
    estimated = values["z0"] == "estimated"
    return "weighs chosen and rejected, and z0 is estimated from other rows: give z0 as a number" if estimated else ""


_KTO = StepRule(_mismatched, _point_of_reference)


@objective(
    "kto",
    of=unit_of,
    reads=reads_of_rows("reference"),
    views=lambda values: (MISMATCHED,) if (values["z0"], values["rows"]) == ("estimated", "pairs") else (),
    step=_kto_rule,
    paper="arXiv 2402.01306",
    spec="5",
    link=_known_point,
)
def kto(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    desirable: NonNegative = 1.0,
    undesirable: NonNegative = 1.0,
    z0: float | Literal["estimated"] = "estimated",
    rows: Rows = "pairs",
    threshold: float = 0.5,
) -> Term:
    """desirable sigmoid(-beta (a - z0)) of chosen and undesirable sigmoid(-beta (z0 - b)) of rejected responses, mean
    over all of them. Ethayarajh et al. 2024 (arXiv 2402.01306). At policy = reference and both weights 1: 1/2.

    z0 estimates the policy's divergence from the reference, max(0, mean log-ratio of mismatched rows: each question
    and image with the answer of another), over the whole step and without gradient. The other is drawn from all of the
    data, not shifted within the batch as in the paper (`mmpo.trainers.views.others`). A number is taken as it is, and
    no row is scored for it.

    `rows: responses` learns unpaired data, the responses of `groups.data` each for itself: desirable are those whose
    score is above `threshold`. z0 is then estimated from their own questions with answers of other groups, and
    evaluation, which is on pairs, reads that of the last step.
    """
    point = found(pairs, "kto", "z0") if isinstance(z0, str) else z0
    if rows == "responses":
        return values_of_good_and_bad(
            pairs, "kto", beta=beta, threshold=threshold, desirable=desirable, undesirable=undesirable, point=point
        )
    a, b = log_ratios(pairs)
    up, down = torch.sigmoid(-beta * (a - point)), torch.sigmoid(-beta * (point - b))
    return per_pair((desirable * up + undesirable * down) / 2)


@objective("kto_pair", step=StepRule(), paper="arXiv 2402.01306 v1", spec="5")
def kto_pair(
    pairs: PairLogps, *, beta: Positive = 0.1, desirable: NonNegative = 1.0, undesirable: NonNegative = 1.0
) -> Term:
    """desirable sigmoid(-beta (a - z_l)) + undesirable sigmoid(-beta (z_w - b)), halved: KTO's value of both responses.
    Ethayarajh et al. 2024 (arXiv 2402.01306). At policy = reference: 1/2.

    The reference points z_w = max(0, mean a) and z_l = max(0, mean b) come from the other side of the step, as in the
    first published pairwise form; `kto` estimates one from mismatched responses, which takes another forward pass.
    """
    a, b = log_ratios(pairs)
    assert pairs.step is not None  # the registry sees to it
    values = pairs.step.values
    z_w, z_l = ((values[s] - values[f"{s}r"]).mean().clamp_min(0) for s in ("W", "L"))
    chosen, rejected = torch.sigmoid(-beta * (a - z_l)), torch.sigmoid(-beta * (z_w - b))
    return per_pair(0.5 * (desirable * chosen + undesirable * rejected))
