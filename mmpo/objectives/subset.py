"""Weighted ("subset") DPO: tokens that were edited count fully, all others a share of it."""

from __future__ import annotations

from mmpo.objectives.pairwise import dpo
from mmpo.objectives.parameters import Positive, Share
from mmpo.objectives.ratios import EndWeight, Normalise, by_subset
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term
from mmpo.objectives.weighing import reweighed
from mmpo.types import PairLogps


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

    weighed = reweighed(pairs, by_subset, gamma=gamma, normalise=normalise, eos_weight=eos_weight)
    return dpo(weighed, beta=beta)
