"""Losses that read how far each token's distribution has moved: K(y) = sum_t KL(pi_ref(.|y_<t) || pi(.|y_<t)).

Notation as in `pairwise` and `visual`; sg(x) is x without its gradient, z_u a margin of token-weighted log-ratios.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.pairwise import dense_reward, span_reward
from mmpo.objectives.parameters import NonNegative, OpenShare, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratio, log_ratios, per_pair
from mmpo.objectives.visual import CHOSEN
from mmpo.types import PairLogps


@objective("tdpo1", reads=("reference", "kl"), paper="arXiv 2404.11999", spec="7")
def tdpo1(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta [D - (K(y_l) - K(y_w))]): DPO with the difference of sequential divergences taken off. TDPO, Zeng
    et al. 2024 (arXiv 2404.11999)."""
    divergence = pairs.rejected.kl_sum - pairs.chosen.kl_sum
    return per_pair(softplus(-beta * (log_ratios(pairs).gap - divergence)))


@objective(
    "tdpo2",
    reads=("reference", "kl"),
    paper="arXiv 2404.11999",
    spec="7",
    identities=(Identity({"alpha": 0.0}, "dpo"),),
)
def tdpo2(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 0.5) -> Term:
    """softplus(-beta [D - alpha (K(y_l) - sg K(y_w))]): only the rejected answer's divergence is held down. TDPO, Zeng
    et al. 2024 (arXiv 2404.11999)."""
    divergence = pairs.rejected.kl_sum - pairs.chosen.kl_sum.detach()
    return per_pair(softplus(-beta * (log_ratios(pairs).gap - alpha * divergence)))


@objective(
    "ra_dpo",
    reads=("reference", "tail_kl"),
    paper="arXiv 2505.20359",
    spec="7",
    identities=(Identity({"alpha": 0.0}, "dpo"),),
)
def ra_dpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 0.5, mu: OpenShare = 0.95) -> Term:
    """softplus(-beta [D - alpha (T(y_l) - sg T(y_w))]): tdpo2 with T, the sum over tokens of the upper tail of the
    divergence, in place of K. Ra-DPO, arXiv 2505.20359.

    A token's tail is sum_v q_v delta_v over the vocabulary's entries whose delta = log q - log p is above their
    quantile at level 1 - `mu`; scoring takes it (`mmpo.models.scoring.token_statistics`). The quantile counts entries,
    not probability. mu -> 1 is tdpo2.
    """
    tail_w, tail_l = (side.read("tail_kl").sum(-1) for side in (pairs.chosen, pairs.rejected))
    return per_pair(softplus(-beta * (log_ratios(pairs).gap - alpha * (tail_l - tail_w.detach()))))


@objective("kl", reads=("reference", "kl"), rewards=None, paper="arXiv 2405.18654", spec="7")
def kl(pairs: PairLogps) -> Term:
    """K(y_w): holds the policy near the reference on the chosen answers, over the whole vocabulary."""
    return per_pair(pairs.chosen.kl_sum)


@objective(
    "auxiliary_kl",
    reads=("reference", "kl", "auxiliary"),
    rewards=None,
    of="auxiliary",
    paper="arXiv 2405.18654",
    spec="7",
)
def auxiliary_kl(pairs: PairLogps) -> Term:
    """K of answers to other questions, averaged over these samples: HALVA's regularizer (arXiv 2405.18654)."""
    if pairs.auxiliary is None:
        raise UserError("this objective needs auxiliary answers, and the batch has none", hint="set `auxiliary`")
    return per_pair(pairs.auxiliary.kl_sum)


@objective(
    "chip",
    reads=("reference", "weights", "kl"),
    views=(CHOSEN,),
    corruption="diffusion",
    paper="arXiv 2501.16629",
    spec="VLM 9",
    identities=(
        Identity({"image": 0.0, "segment": 0.0, "token": 0.0}, "dpo"),
        Identity({"segment": 0.0, "token": 0.0}, "rdpo", same=("beta", "image")),
    ),
)
def chip(
    pairs: PairLogps,
    *,
    beta: Positive = 0.5,
    image: NonNegative = 1.0,
    segment: NonNegative = 3.0,
    token: NonNegative = 0.1,
    normalize: bool = True,
    sign: Literal["lower", "printed"] = "lower",
) -> Term:
    """DPO + `image` times the image preference + `segment` times DPO on token-weighted log-probs + `token` times the
    token term, each with a sigmoid of its own. CHiP, arXiv 2501.16629, its paper's form: beta 0.5, `segment` 3 (LLaVA)
    or 1 (Muffin), `token` 0.1, m' the diffused image.

    `normalize` divides the weighted log-probs by their weights, as RLHF-V's paper does. The token term is beta
    [K(y_l) - sg K(y_w)], which keeps the rejected answer near the reference as the released code and TDPO do; `sign:
    printed` is the paper's formula, whose minimum moves the rejected answer's distributions away without bound.
    """
    loss = softplus(-beta * log_ratios(pairs).gap)
    loss = loss + image * softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(CHOSEN))))
    if segment:
        reward = dense_reward if normalize else span_reward
        loss = loss + segment * softplus(reward(pairs.rejected, beta) - reward(pairs.chosen, beta))
    divergence = beta * (pairs.rejected.kl_sum - pairs.chosen.kl_sum.detach())
    return per_pair(loss + token * (divergence if sign == "lower" else -divergence))


@objective(
    "chip_official",
    reads=("reference", "weights", "kl"),
    views=(CHOSEN,),
    corruption="diffusion",
    paper="CHiP's code",
    spec="10",
)
def chip_official(
    pairs: PairLogps, *, beta: Positive = 0.1, token: NonNegative = 0.1, summed_twice: bool = False
) -> Term:
    """softplus(-beta {[u_w - u_l] + [u_w - u'] - token [K(y_l) - sg K(y_w)]}), u token-weighted log-ratios (changed
    segments weigh 4, not normalized) and u' that of the chosen answer on the diffused image: CHiP as its released code
    computes it, one sigmoid over the sum.

    `summed_twice` repeats a slip of that code: the reference's log-prob on the diffused image, summed already, is
    multiplied by the weights and summed again. The sigmoid then saturates, and the loss is linear in the margin.
    """
    chosen, rejected = span_reward(pairs.chosen, 1.0), span_reward(pairs.rejected, 1.0)
    noisy = replace(pairs.view(CHOSEN), weights=pairs.chosen.weights)  # the same tokens
    corrupted = span_reward(noisy, 1.0)
    if summed_twice:
        assert noisy.weights is not None and noisy.reference is not None  # span_reward has looked
        reference = (noisy.weights * noisy.reference).sum(-1)
        corrupted = corrupted + reference - _total(noisy.weights, noisy.mask) * reference
    divergence = pairs.rejected.kl_sum - pairs.chosen.kl_sum.detach()
    margin = (chosen - rejected) + (chosen - corrupted) - token * divergence
    return per_pair(softplus(-beta * margin))


def _total(weights: Tensor, mask: Tensor) -> Tensor:
    """[b]"""
    return (weights * mask).sum(-1)
