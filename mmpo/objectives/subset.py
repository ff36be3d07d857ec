"""Weighted ("subset") DPO: tokens that were edited count fully, all others a share of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.objectives.pairwise import span_reward
from mmpo.objectives.parameters import Positive, Share
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, per_pair
from mmpo.types import PairLogps, ResponseLogps

Normalise = Literal["none", "weighted_count"]
EndWeight = Literal["irrelevant", "relevant"]


def subset_weights(response: ResponseLogps, gamma: float, eos_weight: EndWeight = "irrelevant") -> Tensor:
    """w_t = m_t + gamma (1 - m_t) at scored tokens, [b, t]; m_t in [0, 1] are the pair's own token weights.

    The end of the text belongs to no span. Its token, the last scored one, weighs gamma or, as "relevant", 1.
    """
    assert response.weights is not None
    mask = response.mask.to(response.weights.dtype)
    relevant = response.weights * mask
    last = (mask.cumsum(-1) == mask.sum(-1, keepdim=True)) & response.mask
    relevant = torch.where(last, float(eos_weight == "relevant"), relevant)
    return (relevant + gamma * (1 - relevant)) * mask


@objective(
    "subset_dpo",
    reads=("reference", "weights"),
    paper="arXiv 2406.06496",
    spec="7",
    identities=(Identity({"gamma": 1.0}, "dpo"),),
)
def subset_dpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    gamma: Share = 0.5,
    normalise: Normalise = "none",
    eos_weight: EndWeight = "irrelevant",
) -> Term:
    """DPO on sum_t w_t (p_t - q_t), w = 1 for relevant tokens (span weight 1) and gamma for the others (span weight 0).

    gamma = 1 is DPO, gamma = 0 reads edited tokens alone. With `normalise: weighted_count` each sum is divided by its
    sum of weights; with gamma = 1/5 that is dense DPO of RLHF-V with its gamma of 5, up to beta. After Banerjee et al.
    2024 (arXiv 2406.06496), whose formula and gamma are not available to us: a reconstruction, with our defaults.
    """

    def score(response: ResponseLogps) -> Tensor:
        span_reward(response, 1.0)  # raises what is missing
        assert response.reference is not None
        weights = subset_weights(response, gamma, eos_weight)
        total = (weights * (response.policy - response.reference)).sum(-1)
        if normalise == "none":
            return total
        count = weights.sum(-1)
        return torch.where(count > 0, total / count.clamp_min(torch.finfo(count.dtype).tiny), 0.0)

    return per_pair(softplus(-beta * (score(pairs.chosen) - score(pairs.rejected))))
