"""Losses that take the lengths of the responses into account. Notation as in `pairwise`; x~ is x divided by its length.

Losses of averages need a beta of 2 to 10: at dpo's 0.1 they hardly train.
"""

from __future__ import annotations

from torch.nn.functional import softplus

from mmpo.objectives.pairwise import dpo
from mmpo.objectives.parameters import NonNegative, Positive, Share
from mmpo.objectives.ratios import averaged, length_desensitised, sampled
from mmpo.objectives.registry import Identity, Values, objective
from mmpo.objectives.term import Term, average_logps, log_ratios, per_pair
from mmpo.objectives.weighing import reweighed
from mmpo.types import PairLogps


@objective("ln_dpo", reads=("reference", "lengths"), averages=True, paper="arXiv 2411.15124", spec="7")
def ln_dpo(pairs: PairLogps, *, beta: Positive = 5.0) -> Term:
    """softplus(-beta (a~ - b~)): DPO of averages, TRL's `sigmoid_norm`, Tulu 3's loss (arXiv 2411.15124)."""
    return dpo(reweighed(pairs, averaged), beta=beta)


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
    return dpo(reweighed(pairs, length_desensitised, alpha=alpha), beta=beta)


def _drawn_positions(parameters: Values) -> tuple[str, ...]:
    return ("reference", "lengths", "positions") if parameters["draw"] else ("reference", "lengths")


@objective("sampo", reads=_drawn_positions, paper="arXiv 2406.10957", spec="7")
def sampo(pairs: PairLogps, *, beta: Positive = 0.1, draw: bool = False) -> Term:
    """softplus(-beta k (a~ - b~)), k = min(n_w, n_l): DPO on equally many tokens. Lu et al. 2024 (arXiv 2406.10957).

    The paper draws k tokens of the longer response; this is that draw's expectation, without its noise. With `draw`
    they are drawn, once for both models: softplus(-beta (a - b)) over the drawn tokens and the whole shorter response.
    """
    return dpo(reweighed(pairs, sampled, draw=draw), beta=beta)


@objective("mipo", reads=("reference", "lengths"), averages=True, paper="arXiv 2409.17545", spec="8")
def mipo(pairs: PairLogps, *, beta: Positive = 10.0) -> Term:
    """softplus(-beta [(W~ - L~) - softplus(Wr~ - Lr~)]): full push for pairs that the reference orders wrongly. Jang
    2024 (arXiv 2409.17545).
    """
    chosen, rejected = pairs.chosen, pairs.rejected
    ours = average_logps(chosen) - average_logps(rejected)
    theirs = chosen.reference_sum / chosen.lengths.clamp_min(1) - rejected.reference_sum / rejected.lengths.clamp_min(1)
    return per_pair(softplus(-beta * (ours - softplus(theirs))))
