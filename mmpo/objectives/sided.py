"""Losses that treat chosen and rejected differently, so that "chosen up" and "rejected down" are not the same.

Notation as in `pairwise`; r_w = beta a and r_l = beta b are the implicit rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative, Positive, PositiveShare
from mmpo.objectives.registry import Identity, objective
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


def _mean_of_training(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    """The mean of what was trained on: pairs that are only evaluated do not move it. Before the first step it is 0."""
    return Looked({"log_ratio_mean": state["log_ratio_mean"]}, state)


_RUNNING = StepRule(
    log_sums, _mean_log_ratio, {"log_ratio_mean": 0.0, "log_ratio_count": 0.0}, look_without_training=_mean_of_training
)


def _running(values: Mapping[str, Any]) -> StepRule | None:
    return _RUNNING if values["delta"] == "running" else None


@objective(
    "cal_dpo",
    paper="arXiv 2412.14516",
    spec="4",
    identities=(Identity({"calibration": 0.0}, "dpo", {"beta": 1.0}, same=()),),
    link=True,
)
def cal_dpo(pairs: PairLogps, *, beta: Positive = 0.001, calibration: NonNegative = 1.0) -> Term:
    """softplus(-D) + calibration [(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2]: the implicit rewards keep the scale of true
    ones. Xiao et al. 2024 (arXiv 2412.14516), eq. 10. At policy = reference: log 2 + calibration/(2 beta^2).

    The logistic term has no beta. The release (tengxiao1/Cal-DPO 7d16b46) multiplies the squares by 0.5: `calibration:
    0.5`. calibration = 0 is dpo of beta 1.
    """
    a, b = log_ratios(pairs)
    squares = (a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2
    return per_pair(softplus(b - a) + calibration * squares)


@objective(
    "dpo_shift",
    paper="arXiv 2502.07599",
    spec="4",
    identities=(
        Identity({"lam": 1.0}, "dpo"),
        Identity({"schedule": "increase", "lam_min": 1.0, "lam_max": 1.0}, "dpo"),
    ),
    link=True,
)
def dpo_shift(
    pairs: PairLogps,
    *,
    beta: Positive = 0.01,
    lam: PositiveShare = 0.75,
    schedule: Literal["fixed", "increase", "decrease"] = "fixed",
    lam_min: PositiveShare = 0.5,
    lam_max: PositiveShare = 1.0,
) -> Term:
    """softplus(-beta (a - lam b)): a smaller lam keeps the chosen response likely, at some cost in margin. Yang et al.
    2025 (arXiv 2502.07599). lam = 1 is dpo.

    `schedule: increase` moves lam evenly from lam_min to lam_max over the run, `decrease` from lam_max to lam_min, and
    `lam` is not read; the release's are 0.5 and 1.
    """
    if schedule != "fixed":
        if lam_min > lam_max:
            raise UserError(f"dpo_shift.lam_min must not be above lam_max (they are {lam_min:g} and {lam_max:g})")
        done = pairs.progress if schedule == "increase" else 1 - pairs.progress
        lam = lam_min + (lam_max - lam_min) * done
    a, b = log_ratios(pairs)
    return per_pair(softplus(-beta * (a - lam * b)))


@objective(
    "flex_dpo",
    paper="arXiv 2406.07327",
    spec="4",
    identities=(
        Identity({"beta": 0.2, "beta_rejected": 0.2}, "dpo", {"beta": 0.2}, same=()),
        Identity({"beta": 0.2, "beta_rejected": 0.1}, "dpo_shift", {"beta": 0.2, "lam": 0.5}, same=()),
    ),
    link=True,
)
def flex_dpo(pairs: PairLogps, *, beta: Positive = 0.1, beta_rejected: Positive = 0.05) -> Term:
    """softplus(-(beta a - beta_rejected b)): the same with two betas. Yan et al. 2024 (3D-properties, arXiv
    2406.07327).
    """
    a, b = log_ratios(pairs)
    return per_pair(softplus(beta_rejected * b - beta * a))


@objective("apo_zero", paper="arXiv 2408.06266", spec="5", link=True)
def apo_zero(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """1 - sigmoid(r_w) + sigmoid(r_l): chosen up, rejected down, for pairs better than what the model writes.
    D'Oosterlinck et al. 2024 (arXiv 2408.06266). At policy = reference: 1.
    """
    a, b = log_ratios(pairs)
    return per_pair(torch.sigmoid(-beta * a) + torch.sigmoid(beta * b))


@objective("apo_down", paper="arXiv 2408.06266", spec="5", link=True)
def apo_down(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """sigmoid(r_w) + 1 - sigmoid(z): both down, chosen less, for a model that is better than its pairs already.
    D'Oosterlinck et al. 2024 (arXiv 2408.06266). At policy = reference: 1.
    """
    a, b = log_ratios(pairs)
    return per_pair(torch.sigmoid(beta * a) + torch.sigmoid(-beta * (a - b)))


@objective("bco_pair", step=_running, paper="arXiv 2404.04656", spec="5", link=True)
def bco_pair(pairs: PairLogps, *, beta: Positive = 0.1, delta: float | Literal["running"] = 0.0) -> Term:
    """softplus(-(r_w - delta)) + softplus(r_l - delta): a classifier of single responses. Jung et al. 2024 (arXiv
    2404.04656), the BCO part of InternVL's MPO. At policy = reference and delta = 0: 2 log 2.

    `delta: running` is the paper's, the mean of all rewards so far, this step's included, over its micro-batches and
    processes (TRL's older code counted micro-batch by micro-batch); evaluation reads what training has come to.
    A constant 0 is the pairwise form of TRL 1.
    """
    return per_pair(_bco(pairs, "bco_pair", beta, delta))


def _bco(pairs: PairLogps, name: str, beta: float, delta: float | str) -> Tensor:
    shift: float | Tensor = 0.0 if isinstance(delta, str) else delta
    if isinstance(delta, str):
        assert pairs.step is not None  # the registry sees to it
        shift = beta * pairs.step.found[name]["log_ratio_mean"].to(pairs.chosen.policy.dtype)
    a, b = log_ratios(pairs)
    return softplus(shift - beta * a) + softplus(beta * b - shift)


@objective(
    "mpo",
    reads=("reference", "lengths"),
    step=_running,
    paper="arXiv 2411.10442",
    spec="9",
    identities=(
        Identity({"preference": 1.0, "quality": 0.0, "generation": 0.0}, "dpo"),
        Identity({"preference": 0.0, "quality": 1.0, "generation": 0.0}, "bco_pair"),
    ),
    supervised=True,
)
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


@objective("sppo_hard", paper="arXiv 2405.00675", spec="5", link=True)
def sppo_hard(pairs: PairLogps, *, beta: Positive = 0.001) -> Term:
    """(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2. Wu et al. 2024 (arXiv 2405.00675), with every label certain.

    beta is the paper's 1/eta: at 0.001 the targets are 500 nats away and losses of 500,000 are normal.
    """
    a, b = log_ratios(pairs)
    return per_pair((a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2)


@objective("rpo", paper="arXiv 2405.16436", spec="9", identities=(Identity({"eta": 0.0}, "dpo"),), supervised=True)
def rpo(pairs: PairLogps, *, beta: Positive = 0.01, eta: NonNegative = 0.005) -> Term:
    """softplus(-z) - eta beta W: DPO with the chosen response's likelihood, summed over its tokens. Liu et al. 2024
    (arXiv 2405.16436). For the token mean, which is weaker by about beta n_w, add `sft` to dpo (that is IRPO).
    """
    return per_pair(softplus(-beta * log_ratios(pairs).gap) - eta * beta * pairs.chosen.policy_sum)
