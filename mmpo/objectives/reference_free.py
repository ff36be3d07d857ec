"""Losses without a reference: SimPO, ORPO and the supervised term.

Notation as in `pairwise`: W, L summed policy log-probs, n_w, n_l lengths, W/n_w and L/n_l their averages.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, average_logps, average_reward, per_pair, summed_reward
from mmpo.types import PairLogps


@objective(
    "simpo", reads=("lengths",), rewards=average_reward, averages=True, paper="arXiv 2405.14734, eq. 6", spec="6"
)
def simpo(pairs: PairLogps, *, beta: Positive = 2.0, gamma: NonNegative = 1.0) -> Term:
    """softplus(-(beta (W/n_w - L/n_l) - gamma)). Meng et al. 2024 (arXiv 2405.14734), eq. 6. beta is 2 to 10, not
    dpo's 0.1.
    """
    margin = beta * (average_logps(pairs.chosen) - average_logps(pairs.rejected)) - gamma
    return per_pair(softplus(-margin))


@objective(
    "orpo",
    reads=("lengths",),
    rewards=average_reward,
    scale="lam",
    paper="arXiv 2403.07691, eqs. 6-7",
    spec="6",
    identities=(Identity({"lam": 0.0}, "sft", same=()),),
)
def orpo(pairs: PairLogps, *, lam: NonNegative = 0.1) -> Term:
    """-W/n_w + lam softplus(-(odds_w - odds_l)), odds(v) = v - log(1 - e^v). Hong et al. 2024 (arXiv 2403.07691),
    eqs. 6-7.
    """
    chosen, rejected = average_logps(pairs.chosen), average_logps(pairs.rejected)
    return per_pair(-chosen + lam * softplus(_log_odds(rejected) - _log_odds(chosen)))


@objective("cpo", reads=("lengths",), rewards=summed_reward, paper="arXiv 2401.08417", spec="6")
def cpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 1.0) -> Term:
    """softplus(-beta (W - L)) - alpha W/n_w. Xu et al. 2024 (arXiv 2401.08417), with the likelihood term per
    token."""
    gap = pairs.chosen.policy_sum - pairs.rejected.policy_sum
    return per_pair(softplus(-beta * gap) - alpha * average_logps(pairs.chosen))


@objective("repo", reads=("lengths",), rewards=average_reward, paper="arXiv 2503.07426", spec="6")
def repo(pairs: PairLogps, *, gamma: NonNegative = 0.5) -> Term:
    """max(0, gamma - (W/n_w - L/n_l)): SimPO for beta to infinity. Wu et al. 2025 (arXiv 2503.07426). Pairs beyond the
    margin have no gradient.
    """
    return per_pair(torch.relu(gamma - average_logps(pairs.chosen) + average_logps(pairs.rejected)))


@objective("slic", reads=(), rewards=summed_reward, paper="arXiv 2305.10425", spec="6")
def slic(pairs: PairLogps, *, delta: float = 1.0, lam: NonNegative = 0.1) -> Term:
    """max(0, delta - W + L) - lam W: SLiC-HF, with the chosen response as the target that regularizes. Zhao et al. 2023
    (arXiv 2305.10425). `lam` has no published value that fits summed log-probs; 0.1 is ours.
    """
    chosen, rejected = pairs.chosen.policy_sum, pairs.rejected.policy_sum
    return per_pair(torch.relu(delta - chosen + rejected) - lam * chosen)


@objective("typo", rewards=summed_reward, reads=("samples",), paper="arXiv 2407.09072", spec="9")
def typo(pairs: PairLogps, *, lam: NonNegative) -> Term:
    """softplus(-(W - L)) - lam times the mean log-prob, summed over tokens, of responses that the reference wrote to
    the prompt: a preference term without reference and an anchor that needs no labels. New Desiderata (arXiv
    2407.09072): the structure is the paper's, the terms are a reconstruction.

    The samples are drawn once. No value of `lam` is published: it must be given.
    """
    if pairs.samples is None or pairs.samples_of is None:
        raise UserError("typo reads samples of the reference, and the batch has none", hint="set samples_from")
    gap = pairs.chosen.policy_sum - pairs.rejected.policy_sum
    total = torch.zeros_like(gap).index_add(0, pairs.samples_of, pairs.samples.policy_sum)
    count = torch.zeros_like(gap).index_add(0, pairs.samples_of, torch.ones_like(pairs.samples.policy_sum))
    if without := int((count == 0).sum()):
        raise UserError(
            f"typo reads samples of the reference, and {without} of {len(gap)} pairs of a batch have none",
            hint="sample responses to every prompt",
        )
    return per_pair(softplus(-gap) - lam * total / count)


@objective(
    "alphapo",
    reads=("lengths",),
    rewards=average_reward,
    averages=True,
    paper="arXiv 2501.03884",
    spec="6",
    identities=(Identity({"alpha": 0.0}, "simpo", same=("beta", "gamma")),),
)
def alphapo(pairs: PairLogps, *, beta: Positive = 2.0, gamma: NonNegative = 1.0, alpha: float = 0.0) -> Term:
    """SimPO with the reward (1 - p^-alpha)/alpha for log p, p the mean token probability. Gupta et al. 2025 (arXiv
    2501.03884). alpha = 0 is simpo; the exponent is clamped at 80.
    """

    def shaped(mean_logp: Tensor) -> Tensor:
        return mean_logp if alpha == 0 else -torch.expm1((-alpha * mean_logp).clamp_max(80.0)) / alpha

    margin = beta * (shaped(average_logps(pairs.chosen)) - shaped(average_logps(pairs.rejected))) - gamma
    return per_pair(softplus(-margin))


@objective(
    "asft",
    reads=("lengths",),
    rewards=average_reward,
    scale="lam",
    paper="arXiv 2409.10571",
    spec="6",
    identities=(Identity({"lam": 0.0}, "sft", same=()),),
)
def asft(pairs: PairLogps, *, lam: NonNegative = 1.0) -> Term:
    """-W/n_w + lam [softplus(-odds_w) + softplus(odds_l)], which is likelihood of chosen plus unlikelihood of rejected.
    Wang et al. 2024 (arXiv 2409.10571).
    """
    chosen, rejected = average_logps(pairs.chosen), average_logps(pairs.rejected)
    return per_pair(-chosen + lam * (softplus(-_log_odds(chosen)) + softplus(_log_odds(rejected))))


@objective("sft", reads=("lengths",), rewards=None, spec="9")
def sft(pairs: PairLogps, *, per: Literal["pair", "token"] = "pair") -> Term:
    """Negative log-likelihood of the chosen response per token.

    `per="pair"` averages within a response first, so that every pair counts the same (-W/n_w); `per="token"` is the
    mean over all chosen tokens, as TRL's sft term is."""
    if per == "pair":
        return per_pair(-average_logps(pairs.chosen))
    return Term(-pairs.chosen.policy_sum, pairs.chosen.lengths.to(pairs.chosen.policy.dtype))


@objective("auxiliary", reads=("auxiliary",), rewards=None, of="auxiliary", paper="arXiv 2311.16839", spec="10")
def auxiliary(pairs: PairLogps) -> Term:
    """Negative log-likelihood per token of answers to other questions, averaged over these samples: HA-DPO's L_aux
    (Zhao et al. 2023, arXiv 2311.16839), which keeps a weak model from degenerating while it learns preferences.

    A conversation of several turns is one sample; all its answers' tokens count the same.
    """
    if pairs.auxiliary is None:
        raise UserError("this objective needs auxiliary answers, and the batch has none", hint="set `auxiliary`")
    return per_pair(-average_logps(pairs.auxiliary))


def _log_odds(mean_logp: Tensor) -> Tensor:
    """v - log(1 - e^v) for v < 0, stable at both ends; v is kept below -1e-7, where the odds diverge."""
    v = mean_logp.clamp_max(-1e-7)
    near_zero = v > -math.log(2)
    # each branch gets an argument that is safe for it, or its gradient would be nan where the other one is used
    close = torch.log(-torch.expm1(torch.where(near_zero, v, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, v)))
    return v - torch.where(near_zero, close, far)
