"""Losses in which the pairs of an optimizer step depend on each other, over all its micro-batches and processes.

Their value changes with the number of pairs a step, but not with how a step is cut: the trainer makes a pass without
gradient over the whole step first, and each pair then meets numbers of all of them. Notation as in `pairwise`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.objectives.parameters import NonNegative, Positive
from mmpo.objectives.registry import objective
from mmpo.objectives.step_rule import StepRule
from mmpo.objectives.term import Term, log_ratios, per_pair
from mmpo.types import PairLogps


@objective("aot", step=StepRule())
def aot(pairs: PairLogps, *, beta: Positive = 0.01, paired: bool = True) -> Term:
    """softplus(-beta D) of sorted quantiles: chosen should be better in distribution. Melnyk et al. 2024 (arXiv
    2406.05882).

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
        return per_pair(softplus(-beta * (upper.sort().values - lower.sort().values)))
    chosen, rejected, chosen_ref, rejected_ref = (step.values[name] for name in ("W", "L", "Wr", "Lr"))
    if paired:
        met = _same_rank(chosen - rejected, chosen_ref - rejected_ref)[step.own]
        return per_pair(softplus(-beta * (gap - met)))
    # a and b of one rank belong to two pairs, perhaps of two processes: each takes its gradient, both half the value.
    ups, downs = chosen - chosen_ref, rejected - rejected_ref
    both = softplus(-beta * (a - _same_rank(ups, downs)[step.own]))
    both = both + softplus(-beta * (_same_rank(downs, ups)[step.own] - b))
    return per_pair(both - 0.5 * both.detach())


def _same_rank(of: Tensor, among: Tensor) -> Tensor:
    """For each number in `of` the number of the same rank in `among`, [n]. Equal ones rank in their order."""
    order = of.argsort(stable=True)
    return torch.empty_like(among).index_copy(0, order, among.sort().values)


@objective("kto_pair", step=StepRule())
def kto_pair(
    pairs: PairLogps, *, beta: Positive = 0.1, desirable: NonNegative = 1.0, undesirable: NonNegative = 1.0
) -> Term:
    """desirable sigmoid(-beta (a - z_l)) + undesirable sigmoid(-beta (z_w - b)), halved: KTO's value of both responses.
    Ethayarajh et al. 2024 (arXiv 2402.01306). At policy = reference: 1/2.

    The reference points z_w = max(0, mean a) and z_l = max(0, mean b) come from the other side of the step, as in the
    first published pairwise form; KTO proper estimates one from mismatched responses, which takes another forward
    pass.
    """
    a, b = log_ratios(pairs)
    assert pairs.step is not None  # the registry sees to it
    values = pairs.step.values
    z_w, z_l = ((values[s] - values[f"{s}r"]).mean().clamp_min(0) for s in ("W", "L"))
    chosen, rejected = torch.sigmoid(-beta * (a - z_l)), torch.sigmoid(-beta * (z_w - b))
    return per_pair(0.5 * (desirable * chosen + undesirable * rejected))
