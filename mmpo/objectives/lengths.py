"""Losses that take the lengths of the responses into account. Notation as in `pairwise`; x~ is x divided by its length.

Losses of averages need a beta of 2 to 10: at dpo's 0.1 they hardly train.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative, Positive, Share
from mmpo.objectives.registry import Identity, Values, objective
from mmpo.objectives.term import Term, average_log_ratio, average_logps, log_ratios, per_pair, token_log_ratios
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
        place = torch.arange(response.policy.shape[1], device=response.policy.device)
        return (torch.where(place < common, 1.0, alpha) * token_log_ratios(response)).sum(-1)

    return per_pair(softplus(-beta * (score(pairs.chosen) - score(pairs.rejected))))


def _drawn_positions(parameters: Values) -> tuple[str, ...]:
    return ("reference", "lengths", "positions") if parameters["draw"] else ("reference", "lengths")


@objective("sampo", reads=_drawn_positions, paper="arXiv 2406.10957", spec="7")
def sampo(pairs: PairLogps, *, beta: Positive = 0.1, draw: bool = False) -> Term:
    """softplus(-beta k (a~ - b~)), k = min(n_w, n_l): DPO on equally many tokens. Lu et al. 2024 (arXiv 2406.10957).

    The paper draws k tokens of the longer response; this is that draw's expectation, without its noise. With `draw`
    they are drawn, once for both models: softplus(-beta (a - b)) over the drawn tokens and the whole shorter response.
    """
    if draw:
        gap = _drawn_ratio(pairs.chosen, pairs.rejected) - _drawn_ratio(pairs.rejected, pairs.chosen)
        return per_pair(softplus(-beta * gap))
    common = torch.minimum(pairs.chosen.lengths, pairs.rejected.lengths)
    gap = average_log_ratio(pairs.chosen) - average_log_ratio(pairs.rejected)
    return per_pair(softplus(-beta * common * gap))


def _drawn_ratio(response: ResponseLogps, other: ResponseLogps) -> Tensor:
    """The log-ratio over the drawn tokens where the response is the longer one, over all elsewhere, [b]."""
    ratios = token_log_ratios(response)
    longer = response.lengths > other.lengths
    if not bool(longer.any()):
        return ratios.sum(-1)
    drawn = response.read("positions") & response.mask
    if not bool((drawn.sum(-1) == other.lengths)[longer].all()):
        raise UserError("sampo: 'positions' are not as many tokens of the longer response as the shorter one has")
    return torch.where(drawn | ~longer[:, None], ratios, 0.0).sum(-1)


@objective("mipo", reads=("reference", "lengths"), averages=True, paper="arXiv 2409.17545", spec="8")
def mipo(pairs: PairLogps, *, beta: Positive = 10.0) -> Term:
    """softplus(-beta [(W~ - L~) - softplus(Wr~ - Lr~)]): full push for pairs that the reference orders wrongly. Jang
    2024 (arXiv 2409.17545).
    """
    chosen, rejected = pairs.chosen, pairs.rejected
    ours = average_logps(chosen) - average_logps(rejected)
    theirs = chosen.reference_sum / chosen.lengths.clamp_min(1) - rejected.reference_sum / rejected.lengths.clamp_min(1)
    return per_pair(softplus(-beta * (ours - softplus(theirs))))
