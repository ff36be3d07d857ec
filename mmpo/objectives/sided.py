"""Losses that treat chosen and rejected differently, so that "chosen up" and "rejected down" are not the same.

Notation as in `pairwise`; r_w = beta a and r_l = beta b are the implicit rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.objectives.parameters import NonNegative, Positive, PositiveShare
from mmpo.objectives.registry import objective
from mmpo.objectives.step_rule import Draw, Looked, State, StepRule, log_sums
from mmpo.objectives.term import Term, log_ratios, per_pair
from mmpo.types import PairLogps


def _mean_log_ratio(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    """The mean log-ratio of all responses, chosen and rejected, that were trained on so far, this step included."""
    ratios = torch.cat([values["W"] - values["Wr"], values["L"] - values["Lr"]]).double()
    before, count = state["log_ratio_mean"].to(ratios.device), state["log_ratio_count"].to(ratios.device)
    after = count + len(ratios)
    mean = before + (ratios.sum() - len(ratios) * before) / after
    return Looked({"log_ratio_mean": mean}, {"log_ratio_mean": mean, "log_ratio_count": after})


_RUNNING = StepRule(log_sums, _mean_log_ratio, {"log_ratio_mean": 0.0, "log_ratio_count": 0.0})


def _running(values: Mapping[str, Any]) -> StepRule | None:
    return _RUNNING if values["delta"] == "running" else None


@objective("dpo_shift")
def dpo_shift(pairs: PairLogps, *, beta: Positive = 0.01, lam: PositiveShare = 0.75) -> Term:
    """softplus(-beta (a - lam b)): a smaller lam keeps the chosen response likely, at some cost in margin. Yang et al.
    2025 (arXiv 2502.07599). lam = 1 is dpo.
    """
    a, b = log_ratios(pairs)
    return per_pair(softplus(-beta * (a - lam * b)))


@objective("flex_dpo")
def flex_dpo(pairs: PairLogps, *, beta: Positive = 0.1, beta_rejected: Positive = 0.05) -> Term:
    """softplus(-(beta a - beta_rejected b)): the same with two betas. Yan et al. 2024 (3D-properties, arXiv
    2406.07327).
    """
    a, b = log_ratios(pairs)
    return per_pair(softplus(beta_rejected * b - beta * a))


@objective("apo_zero")
def apo_zero(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """1 - sigmoid(r_w) + sigmoid(r_l): chosen up, rejected down, for pairs better than what the model writes.
    D'Oosterlinck et al. 2024 (arXiv 2408.06266). At policy = reference: 1.
    """
    a, b = log_ratios(pairs)
    return per_pair(torch.sigmoid(-beta * a) + torch.sigmoid(beta * b))


@objective("apo_down")
def apo_down(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """sigmoid(r_w) + 1 - sigmoid(z): both down, chosen less, for a model that is better than its pairs already.
    D'Oosterlinck et al. 2024 (arXiv 2408.06266). At policy = reference: 1.
    """
    a, b = log_ratios(pairs)
    return per_pair(torch.sigmoid(beta * a) + torch.sigmoid(-beta * (a - b)))


@objective("bco_pair", step=_running)
def bco_pair(pairs: PairLogps, *, beta: Positive = 0.1, delta: float | Literal["running"] = 0.0) -> Term:
    """softplus(-(r_w - delta)) + softplus(r_l - delta): a classifier of single responses. Jung et al. 2024 (arXiv
    2404.04656), the BCO part of InternVL's MPO. At policy = reference and delta = 0: 2 log 2.

    `delta: running` is the paper's, the mean of all rewards so far, this step's included, over its micro-batches and
    processes (TRL's older code counted micro-batch by micro-batch). A constant 0 is the pairwise form of TRL 1.
    """
    return per_pair(_bco(pairs, "bco_pair", beta, delta))


def _bco(pairs: PairLogps, name: str, beta: float, delta: float | str) -> Tensor:
    shift: float | Tensor = 0.0 if isinstance(delta, str) else delta
    if isinstance(delta, str):
        assert pairs.step is not None  # the registry sees to it
        shift = beta * pairs.step.found[name]["log_ratio_mean"].to(pairs.chosen.policy.dtype)
    a, b = log_ratios(pairs)
    return softplus(shift - beta * a) + softplus(beta * b - shift)


@objective("mpo", step=_running)
def mpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    preference: NonNegative = 0.8,
    quality: NonNegative = 0.2,
    generation: NonNegative = 1.0,
    delta: float | Literal["running"] = 0.0,
) -> Term:
    """preference DPO + quality BCO (`bco_pair`) + generation times the chosen response's mean negative log-likelihood.
    InternVL's mixed preference optimization, Wang et al. 2024 (arXiv 2411.10442).

    InternVL runs TRL 0.10, whose pairwise BCO subtracts the running mean, the current batch included: `delta: running`.
    """
    likelihood = pairs.chosen.policy_sum / pairs.chosen.lengths.clamp_min(1)
    preferred = softplus(-beta * log_ratios(pairs).gap)
    return per_pair(preference * preferred + quality * _bco(pairs, "mpo", beta, delta) - generation * likelihood)


@objective("sppo_hard")
def sppo_hard(pairs: PairLogps, *, beta: Positive = 0.001) -> Term:
    """(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2. Wu et al. 2024 (arXiv 2405.00675), with every label certain.

    beta is the paper's 1/eta: at 0.001 the targets are 500 nats away and losses of 500,000 are normal.
    """
    a, b = log_ratios(pairs)
    return per_pair((a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2)


@objective("rpo")
def rpo(pairs: PairLogps, *, beta: Positive = 0.01, eta: NonNegative = 0.005) -> Term:
    """softplus(-z) - eta beta W: DPO with the chosen response's likelihood, summed over its tokens. Liu et al. 2024
    (arXiv 2405.16436). For the token mean, which is weaker by about beta n_w, add `sft` to dpo (that is IRPO).
    """
    return per_pair(softplus(-beta * log_ratios(pairs).gap) - eta * beta * pairs.chosen.policy_sum)
