"""Other functions of the logit z = beta D than DPO's logistic loss. Notation as in `pairwise`.

Where a loss is exponential by definition its exponent is clamped at 80, which float32 still holds; beyond it the loss
is constant.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmpo.objectives.parameters import NonNegative, OpenShare, Positive, Smoothing
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratios, per_pair
from mmpo.types import PairLogps

MAX_EXPONENT = 80.0


def bounded_exp(x: Tensor) -> Tensor:
    """e^x, constant above x = 80."""
    return x.clamp_max(MAX_EXPONENT).exp()


@objective("gpo", paper="arXiv 2402.05749", spec="3", identities=(Identity({"f": "logistic"}, "dpo"),))
def gpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    f: Literal["logistic", "exponential", "squared", "truncated", "savage"] = "squared",
) -> Term:
    """f(beta D) for a convex f. Tang et al. 2024 (arXiv 2402.05749): near D = 0 all act alike, the tails differ.

    `logistic` is dpo, `squared` (z-1)^2 is ipo on sums, `truncated` is max(0, 1-z)^2, `exponential` e^-z; `savage`
    (1+e^z)^-2 is not convex: a pair that is far on the wrong side loses its influence.
    """
    z = beta * log_ratios(pairs).gap
    if f == "logistic":
        return per_pair(softplus(-z))
    if f == "exponential":
        return per_pair(bounded_exp(-z))
    if f == "squared":
        return per_pair((z - 1) ** 2)
    if f == "truncated":
        return per_pair(torch.relu(1 - z) ** 2)
    return per_pair(torch.sigmoid(-z) ** 2)  # savage


@objective("f_dpo", paper="arXiv 2309.16240", spec="3", identities=(Identity({"divergence": "reverse_kl"}, "dpo"),))
def f_dpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "jensen_shannon",
    alpha: OpenShare = 0.5,
) -> Term:
    """softplus(-beta (f'(e^a) - f'(e^b))): DPO under another divergence. Wang et al. 2023 (arXiv 2309.16240).

    f' of a log-ratio x: reverse KL x (dpo); forward KL -e^-x; Jensen-Shannon log sigmoid(x); alpha -e^(-alpha x)/alpha,
    0 < alpha < 1 in the paper's sense (TRL's coefficient is 1 - alpha). Log-ratios are sums, so the exponential ones
    are for short answers.
    """

    def score(x: Tensor) -> Tensor:
        if divergence == "reverse_kl":
            return x
        if divergence == "forward_kl":
            return -bounded_exp(-x)
        if divergence == "jensen_shannon":
            return logsigmoid(x)
        return -bounded_exp(-alpha * x) / alpha

    a, b = log_ratios(pairs)
    return per_pair(softplus(-beta * (score(a) - score(b))))


@objective("exo_pair", paper="arXiv 2402.00856", spec="3")
def exo_pair(pairs: PairLogps, *, beta: Positive = 0.1, eps: Smoothing = 1e-3) -> Term:
    """Reverse KL from the policy's preference sigmoid(z) to the smoothed label (1-eps, eps). Ji et al. 2024 (arXiv
    2402.00856). Mode-seeking: the gradient vanishes for hopeless pairs, z << 0.
    """
    z = beta * log_ratios(pairs).gap
    up = torch.sigmoid(z) * (logsigmoid(z) - math.log1p(-eps))
    return per_pair(up + torch.sigmoid(-z) * (logsigmoid(-z) - math.log(eps)))


@objective("discopop", paper="arXiv 2406.08414", spec="3")
def discopop(pairs: PairLogps, *, beta: Positive = 0.05, tau: Positive = 0.05) -> Term:
    """(1-m) softplus(-z) + m e^-z with m = sigmoid(z/tau): a loss found by search. Lu et al. 2024 (arXiv 2406.08414).
    Not convex near 0.
    """
    z = beta * log_ratios(pairs).gap
    m = torch.sigmoid(z / tau)
    return per_pair((1 - m) * softplus(-z) + m * bounded_exp(-z))


@objective("focalpo", paper="arXiv 2501.06645", spec="4", identities=(Identity({"gamma": 0.0}, "dpo"),))
def focalpo(pairs: PairLogps, *, beta: Positive = 0.1, gamma: NonNegative = 0.05) -> Term:
    """-sigmoid(z)^gamma log sigmoid(z): weight on pairs that are right already. Liu et al. 2025 (arXiv 2501.06645).

    Below log sigmoid(z) = -1/gamma the formula's slope would turn and push such a pair further wrong; there the loss is
    constant instead. gamma = 0 is dpo.
    """
    log_sigmoid = logsigmoid(beta * log_ratios(pairs).gap)
    if gamma > 0:
        log_sigmoid = log_sigmoid.clamp_min(-1 / gamma)
    return per_pair(-torch.exp(gamma * log_sigmoid) * log_sigmoid)
