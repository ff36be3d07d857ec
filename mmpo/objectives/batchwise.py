"""Losses in which the pairs of a batch depend on each other: those of one forward pass in one process.

Their value changes with `batch_size`, and unlike all others with how a step is cut: use the largest batch that fits.
Notation as in `pairwise`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.models.pairs import PairLogps
from mmpo.objectives.pairwise import log_ratios, per_pair
from mmpo.objectives.parameters import NonNegative, Positive
from mmpo.objectives.term import Term, register


@register("aot")
def aot(pairs: PairLogps, *, beta: Positive = 0.01, paired: bool = True) -> Term:
    """softplus(-beta D) of sorted quantiles: chosen should be better in distribution. Melnyk et al. 2024 (arXiv
    2406.05882).

    `paired` sorts the policy's gaps W - L and the reference's gaps and compares rank by rank; else the log-ratios a and
    b are sorted. Means something for dozens of pairs a batch.
    """
    if paired:
        policy = pairs.chosen.policy_sum - pairs.rejected.policy_sum
        reference = pairs.chosen.reference_sum - pairs.rejected.reference_sum
        gap = policy.sort().values - reference.sort().values
    else:
        a, b = log_ratios(pairs)
        gap = a.sort().values - b.sort().values
    return per_pair(softplus(-beta * gap))


@register("kto_pair")
def kto_pair(
    pairs: PairLogps, *, beta: Positive = 0.1, desirable: NonNegative = 1.0, undesirable: NonNegative = 1.0
) -> Term:
    """desirable sigmoid(-beta (a - z_l)) + undesirable sigmoid(-beta (z_w - b)), halved: KTO's value of both responses.
    Ethayarajh et al. 2024 (arXiv 2402.01306). At policy = reference: 1/2.

    The reference points z_w = max(0, mean a) and z_l = max(0, mean b) come from the other side of the batch, as in the
    first published pairwise form; KTO proper estimates one from mismatched responses, which takes another forward
    pass.
    """
    a, b = log_ratios(pairs)

    def point(ratios: Tensor) -> Tensor:
        return ratios.detach().mean().clamp_min(0)

    chosen, rejected = torch.sigmoid(-beta * (a - point(b))), torch.sigmoid(-beta * (point(a) - b))
    return per_pair(0.5 * (desirable * chosen + undesirable * rejected))
