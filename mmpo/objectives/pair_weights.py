"""Weights of pairs: constants [b] that multiply the losses of pairs, by `times` those of any term of preference.

A weight belongs to the pair as it is, whatever ratio its loss compares. Notation as in `pairwise` and `scores`: h and
m are gaps of scores, p_t a token's log-prob under the policy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.objectives.parameters import AboveOne, NonNegative, OpenShare, Positive
from mmpo.objectives.scored import scored
from mmpo.objectives.shapes import bounded_exp
from mmpo.objectives.weighing import pair_weight
from mmpo.types import PairLogps, ResponseLogps

_COSINE = 1 + 1e-3
"""Cosines of embeddings in half precision may be a little above 1."""


@pair_weight("madpo", reads=("scores",), paper="arXiv 2510.05342")
def margin_weight(
    pairs: PairLogps,
    *,
    c_min: OpenShare = 0.5,
    c_max: AboveOne = 2.0,
    lam: NonNegative = 1.0,
    tau: Positive = 2.0,
    reward_scale: Positive = 1.0,
) -> Tensor:
    """sigmoid(c h)/sigmoid(h) for h > -tau, else 1: hard pairs of a reward model count more, easy ones less. The
    objective madpo says what h and c are."""
    h = reward_scale * (scored(pairs, "madpo", "chosen") - scored(pairs, "madpo", "rejected"))
    k = (c_max - 1) / (1 - c_min)
    c = c_min + (c_max - c_min) / (1 + k * bounded_exp(lam * (h.abs() - tau)))
    return torch.where(h > -tau, bounded_exp(logsigmoid(c * h) - logsigmoid(h)), 1.0)


@pair_weight("sem_dpo", reads=("scores",), paper="arXiv 2507.20133")
def similarity_weight(pairs: PairLogps, *, alpha: NonNegative) -> Tensor:
    """e^(-alpha (1 - similarity)): pairs whose chosen response strays from the prompt count less. `alpha` must be
    given."""
    return bounded_exp(-alpha * (1 - scored(pairs, "sem_dpo", "similarity", -_COSINE, _COSINE)))


@pair_weight("wpo", reads=("log_sum_squares",), paper="arXiv 2406.11827")
def on_policy_weight(pairs: PairLogps) -> Tensor:
    """u_w u_l, u = exp(mean_t (p_t - log sum_v pi(v)^2)): pairs count as far as the policy itself would write them."""

    def alignment(response: ResponseLogps) -> Tensor:
        expected = response.read("log_sum_squares")
        unlike = ((response.policy - expected) * response.mask).sum(-1) / response.lengths.clamp_min(1)
        return unlike.detach()

    return bounded_exp(alignment(pairs.chosen) + alignment(pairs.rejected))


@pair_weight("given", reads=("scores",))
def given_weight(pairs: PairLogps) -> Tensor:
    """The score `weight` of each pair, 0 or more: one that `mmpo select` wrote, or any other."""
    return scored(pairs, "given", "weight", 0.0)
