"""Pairwise losses against a reference.

Notation (one number a pair): W, L summed policy log-probs of chosen and rejected, Wr, Lr the reference's; a = W - Wr,
b = L - Lr, D = a - b; n_w, n_l scored tokens. -log sigmoid(x) is written softplus(-x), which is stable. Gradients
flow through W and L only."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import FlipRate, NonNegative, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratios, per_pair, token_log_ratios
from mmpo.types import PairLogps, ResponseLogps


@objective("dpo", paper="arXiv 2305.18290, eq. 7", spec="3")
def dpo(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta D). Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. At policy = reference: log 2."""
    return per_pair(softplus(-beta * log_ratios(pairs).gap))


@objective("cdpo", paper="Mitchell 2023, a note", spec="3", identities=(Identity({"eps": 0.0}, "dpo"),))
def cdpo(pairs: PairLogps, *, beta: Positive = 0.1, eps: FlipRate = 0.0) -> Term:
    """DPO whose labels are wrong with probability eps (conservative DPO): (1-eps) softplus(-z) + eps softplus(z), z =
    beta D.

    The optimum is finite, z = log((1-eps)/eps): pairs that are further apart are pulled back.
    """
    z = beta * log_ratios(pairs).gap
    return per_pair((1 - eps) * softplus(-z) + eps * softplus(z))


@objective("robust", paper="arXiv 2403.00409", spec="3", identities=(Identity({"eps": 0.0}, "dpo"),))
def robust(pairs: PairLogps, *, beta: Positive = 0.1, eps: FlipRate = 0.1) -> Term:
    """Unbiased under labels flipped with probability eps. Chowdhury et al. 2024 (arXiv 2403.00409). Negative values
    are correct.
    """
    z = beta * log_ratios(pairs).gap
    return per_pair(((1 - eps) * softplus(-z) - eps * softplus(z)) / (1 - 2 * eps))


@objective("ipo", reads=("reference", "lengths"), scale="tau", paper="arXiv 2310.12036, eq. 17", spec="3")
def ipo(pairs: PairLogps, *, tau: Positive = 0.1, average: bool = True) -> Term:
    """(a/n_w - b/n_l - 1/(2 tau))^2. Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    `average` divides by lengths, as the authors advise and TRL does; False uses sums, as the paper writes it.
    """
    a, b = log_ratios(pairs)
    if average:
        a, b = a / pairs.chosen.lengths.clamp_min(1), b / pairs.rejected.lengths.clamp_min(1)
    return per_pair((a - b - 1 / (2 * tau)) ** 2)


@objective("hinge", paper="arXiv 2309.06657", spec="3")
def hinge(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """max(0, 1 - beta D): the RSO form of SLiC. Liu et al. 2023 (arXiv 2309.06657)."""
    return per_pair(torch.relu(1 - beta * log_ratios(pairs).gap))


@objective("dpop", paper="arXiv 2402.13228, eq. 3", spec="3", identities=(Identity({"lam": 0.0}, "dpo"),))
def dpop(pairs: PairLogps, *, beta: Positive = 0.3, lam: NonNegative = 5.0) -> Term:
    """DPO-Positive: softplus(-beta (D - lam max(0, -a))). Pal et al. 2024 (arXiv 2402.13228), eq. 3.

    The penalty inside the sigmoid keeps the chosen response from becoming less likely than under the reference.
    """
    a, b = log_ratios(pairs)
    return per_pair(softplus(-beta * (a - b - lam * torch.relu(-a))))


@objective("nca_pair", paper="arXiv 2402.05369", spec="5")
def nca_pair(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """Noise-contrastive alignment of a pair. Chen et al. 2024 (arXiv 2402.05369). At policy = reference: 2 log 2."""
    a, b = log_ratios(pairs)
    return per_pair(softplus(-beta * a) + 0.5 * softplus(beta * a) + 0.5 * softplus(beta * b))


def span_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta times the token-weighted log-ratio, [b]."""
    ratios = token_log_ratios(response)
    if response.weights is None:
        raise UserError(
            "this objective needs token weights, and these pairs have none",
            hint="use dpo, token_weights, or data with chosen_weights and rejected_weights",
        )
    return beta * (response.weights * ratios).sum(-1)


def dense_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta times the weighted mean log-ratio per token, [b]; 0 for a response whose weights are all 0."""
    total = span_reward(response, beta)
    assert response.weights is not None  # span_reward has looked
    weight = (response.weights * response.mask).sum(-1)
    return torch.where(weight > 0, total / weight.clamp_min(torch.finfo(weight.dtype).tiny), 0.0)


@objective("span_dpo", reads=("reference", "weights"), paper="RLHF-V's code", spec="7")
def span_dpo(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """DPO on weighted log-ratios sum_t u_t (p_t - q_t), u_t from the pair's character spans; u = 1 everywhere is dpo.

    Dense DPO as RLHF-V's code runs it, without its normalization: the weights then scale the margin too.
    """
    return per_pair(softplus(span_reward(pairs.rejected, beta) - span_reward(pairs.chosen, beta)))


@objective("dense_dpo", reads=("reference", "weights"), paper="arXiv 2312.00849", spec="7")
def dense_dpo(pairs: PairLogps, *, beta: Positive = 0.5) -> Term:
    """DPO on weighted means: log pi(y) := sum_t u_t log p_t / sum_t u_t, u = gamma for changed tokens, else 1. RLHF-V's
    dense DPO, Yu et al. 2023 (arXiv 2312.00849); the paper's gamma is 5.
    """
    return per_pair(softplus(dense_reward(pairs.rejected, beta) - dense_reward(pairs.chosen, beta)))


@objective("dpo_bmc", reads=("reference", "weights"), paper="arXiv 2408.07471", spec="7")
def dpo_bmc(
    pairs: PairLogps,
    *,
    beta: Positive = 0.05,
    cap: Positive = 2.0,
    reference_weights: Literal["policy", "own"] = "policy",
) -> Term:
    """DPO on sum_t u_t (p_t - q_t), u = 1 + min(1/pi(y_t), cap) for tokens that differ, else 1: unsure tokens count
    more. BMC, Jiang et al. 2024 (arXiv 2408.07471). A token differs if its weight is not 1; u carries no gradient.

    With `reference_weights: own`, q is weighted by the reference's own probabilities, as in the released code; what is
    compared then also moves with the weights.
    """

    def score(response: ResponseLogps) -> Tensor:
        span_reward(response, 1.0)  # raises what is missing
        assert response.weights is not None and response.reference is not None
        differs = response.weights != 1

        def weights(logps: Tensor) -> Tensor:
            return 1 + differs * (-logps.detach()).clamp_max(math.log(cap)).exp()

        theirs = response.policy if reference_weights == "policy" else response.reference
        return (weights(response.policy) * response.policy - weights(theirs) * response.reference).sum(-1)

    return per_pair(softplus(-beta * (score(pairs.chosen) - score(pairs.rejected))))
