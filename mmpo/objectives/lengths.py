"""Losses that take the lengths of the responses into account. Notation as in `pairwise`; x~ is x divided by its length.

Losses of averages need a beta of 2 to 10: at dpo's 0.1 they hardly train.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.objectives.parameters import NonNegative, Positive, Share
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, average_log_ratio, average_logps, log_ratio, log_ratios, per_pair
from mmpo.types import PairLogps, ResponseLogps


@objective("ln_dpo", reads=("reference", "lengths"), averages=True, paper="arXiv 2411.15124", spec="7")
def ln_dpo(pairs: PairLogps, *, beta: Positive = 5.0) -> Term:
    """softplus(-beta (a~ - b~)): DPO of averages, TRL's `sigmoid_norm`, Tulu 3's loss (arXiv 2411.15124)."""
    gap = average_log_ratio(pairs.chosen) - average_log_ratio(pairs.rejected)
    return per_pair(softplus(-beta * gap))


@objective(
    "length_dpo",
    reads=("reference", "lengths"),
    paper="arXiv 2403.19159",
    spec="4",
    identities=(Identity({"alpha": 0.0}, "dpo"),),
)
def length_dpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 0.01) -> Term:
    """softplus(-(z + alpha (n_w - n_l))): length explains a part of the preference, so a long winner is pushed less.
    R-DPO, Park et al. 2024 (arXiv 2403.19159).

    The sign is the derivation's; some published code subtracts, which pushes more towards long winners.
    """
    lengths = (pairs.chosen.lengths - pairs.rejected.lengths).to(pairs.chosen.policy.dtype)
    return per_pair(softplus(-(beta * log_ratios(pairs).gap + alpha * lengths)))


@objective("ld_dpo", paper="arXiv 2409.06411", spec="7", identities=(Identity({"alpha": 1.0}, "dpo"),))
def ld_dpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: Share = 0.5) -> Term:
    """DPO in which the tokens of the longer response beyond the shorter one's length weigh alpha. Liu et al. 2024
    (arXiv 2409.06411). alpha = 1 is dpo, 0 compares equal lengths only.
    """
    common = torch.minimum(pairs.chosen.lengths, pairs.rejected.lengths)[:, None]

    def score(response: ResponseLogps) -> Tensor:
        if response.reference is None:
            return log_ratio(response)  # raises the error that names the remedy
        place = torch.arange(response.policy.shape[1], device=response.policy.device)
        return (torch.where(place < common, 1.0, alpha) * (response.policy - response.reference)).sum(-1)

    return per_pair(softplus(-beta * (score(pairs.chosen) - score(pairs.rejected))))


@objective("sampo", reads=("reference", "lengths"), paper="arXiv 2406.10957", spec="7")
def sampo(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta k (a~ - b~)), k = min(n_w, n_l): DPO on equally many tokens. Lu et al. 2024 (arXiv 2406.10957).

    The paper draws k tokens of the longer response; this is that draw's expectation, without its noise.
    """
    common = torch.minimum(pairs.chosen.lengths, pairs.rejected.lengths)
    gap = average_log_ratio(pairs.chosen) - average_log_ratio(pairs.rejected)
    return per_pair(softplus(-beta * common * gap))


@objective("mipo", reads=("reference", "lengths"), averages=True, paper="arXiv 2409.17545", spec="8")
def mipo(pairs: PairLogps, *, beta: Positive = 10.0) -> Term:
    """softplus(-beta [(W~ - L~) - softplus(Wr~ - Lr~)]): full push for pairs that the reference orders wrongly. Jang
    2024 (arXiv 2409.17545).
    """
    chosen, rejected = pairs.chosen, pairs.rejected
    ours = average_logps(chosen) - average_logps(rejected)
    theirs = chosen.reference_sum / chosen.lengths.clamp_min(1) - rejected.reference_sum / rejected.lengths.clamp_min(1)
    return per_pair(softplus(-beta * (ours - softplus(theirs))))
