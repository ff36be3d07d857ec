"""Ratios: which tokens of a response count in a loss of log-ratios, and how much.

Each is a function of one side's responses and their pairs to constant weights u of tokens, [b, t], or [b, 1] where all
tokens of a response weigh the same; a loss with `ratio: NAME` meets a = sum_t u_t (p_t - q_t). The losses that are
known by a name of their own (ld_dpo, dmpo …) are dpo on these.

Shapes: b pairs, t tokens of a response (padded), k parts of one.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative, Positive, PositiveShare, Share
from mmpo.objectives.scored import of_pairs, scored
from mmpo.objectives.weighing import Given, ratio
from mmpo.types import PairLogps, ResponseLogps

Normalise = Literal["none", "weighted_count"]
EndWeight = Literal["irrelevant", "relevant"]


def _lengths(response: ResponseLogps) -> Tensor:
    """The number of scored tokens, in the dtype of the log-probs, [b]."""
    return response.lengths.to(response.policy.dtype)


def _common(pairs: PairLogps) -> Tensor:
    """The length of the shorter response, [b]."""
    return torch.minimum(pairs.chosen.lengths, pairs.rejected.lengths)


# ---- the same weight for all tokens of a response


@ratio("sum")
def summed(response: ResponseLogps, pairs: PairLogps) -> Tensor:
    """1: every scored token counts once, as in dpo."""
    return torch.ones_like(_lengths(response))[:, None]


@ratio("mean", reads=("lengths",), averages=True, paper="arXiv 2411.15124")
def averaged(response: ResponseLogps, pairs: PairLogps) -> Tensor:
    """1/n: log-ratios per token, as in ln_dpo."""
    return 1 / _lengths(response).clamp_min(1)[:, None]


@ratio("shift", paper="arXiv 2502.07599")
def shifted(response: ResponseLogps, pairs: PairLogps, *, lam: PositiveShare = 0.75) -> Tensor:
    """1 for the chosen response, lam for the rejected one: a - lam b, as in dpo_shift."""
    weight = lam if response is pairs.rejected else 1.0
    return torch.full_like(_lengths(response), weight)[:, None]


@ratio("mappo", reads=("scores",), paper="arXiv 2507.21183")
def by_score_gap(response: ResponseLogps, pairs: PairLogps) -> Tensor:
    """1 for the chosen response, m = s_w - s_l for the rejected one, of scores in [0, 1]: a - m b, as in mappo."""
    chosen, rejected = (scored(pairs, "mappo", name, 0, 1) for name in ("chosen", "rejected"))
    gap = chosen - rejected
    if wrong := torch.nonzero(gap < 0).flatten().tolist():
        raise UserError(
            f"mappo needs scores in which chosen is not below rejected: {of_pairs(wrong, gap)} chosen "
            f"{chosen[wrong[0]].item():g} and rejected {rejected[wrong[0]].item():g}",
            hint="drop such pairs when you build the data",
        )
    return (gap if response is pairs.rejected else torch.ones_like(gap))[:, None]


@ratio("da_dpo", reads=("scores",), paper="arXiv 2601.00623")
def by_difficulty(response: ResponseLogps, pairs: PairLogps, *, gamma: Positive = 1.0) -> Tensor:
    """gamma (|m| + 1) for both responses, m = s_w - s_l, as in da_dpo: a larger beta for pairs of a larger gap."""
    gap = scored(pairs, "da_dpo", "chosen") - scored(pairs, "da_dpo", "rejected")
    return gamma * (gap.abs() + 1)[:, None]


def _drawn(given: Given) -> tuple[str, ...]:
    return ("lengths", "positions") if given["draw"] else ("lengths",)


@ratio("sampled", reads=_drawn, paper="arXiv 2406.10957")
def sampled(response: ResponseLogps, pairs: PairLogps, *, draw: bool = False) -> Tensor:
    """k/n, k = min(n_w, n_l), so that both responses count for equally many tokens, as in sampo. `draw`: 1 at k drawn
    tokens of the longer response, 0 at its others, which is the same in expectation."""
    common = _common(pairs)
    if not draw:
        return (common.to(response.policy.dtype) / _lengths(response).clamp_min(1))[:, None]
    longer = response.lengths > common
    if not bool(longer.any()):
        return torch.ones_like(response.policy)
    drawn = response.read("positions") & response.mask
    if not bool((drawn.sum(-1) == common)[longer].all()):
        raise UserError("'positions' are not as many tokens of the longer response as the shorter one has")
    return (drawn | ~longer[:, None]).to(response.policy.dtype)


# ---- by place


@ratio("ld", reads=("lengths",), paper="arXiv 2409.06411")
def length_desensitised(response: ResponseLogps, pairs: PairLogps, *, alpha: Share = 0.5) -> Tensor:
    """alpha for tokens beyond the length of the shorter response, else 1, as in ld_dpo."""
    beyond = (response.places >= _common(pairs)[:, None]).to(response.policy.dtype)
    return 1 - (1 - alpha) * beyond


@ratio("turn", reads=("turns",), paper="arXiv 2406.14868")
def by_turn(response: ResponseLogps, pairs: PairLogps, *, gamma: PositiveShare = 0.7) -> Tensor:
    """gamma^j (1 - gamma^(n-j))/(1 - gamma^n) for turn j of n, from 0, as in dmpo: later turns count less. For gamma 1
    its limit (n - j)/n."""
    turns = response.read("turns")
    inside = (turns >= 0) & response.mask
    count = torch.where(inside, turns, -1).amax(-1, keepdim=True).double() + 1  # [b, 1]
    place = torch.where(inside, turns, 0).double()
    if gamma == 1:
        weights = (count - place) / count.clamp_min(1)
    else:
        log = math.log(gamma)  # expm1 is exact where gamma is close to 1
        weights = gamma**place * torch.expm1((count - place) * log) / torch.expm1(count.clamp_min(1) * log)
    return torch.where(inside, weights, 0.0).to(response.policy.dtype)


@ratio("step", reads=("steps",), averages=True, paper="arXiv 2502.14356")
def by_step(
    response: ResponseLogps, pairs: PairLogps, *, gamma: NonNegative = 1.0, scale_by_steps: bool = False
) -> Tensor:
    """The softmax over the steps of gamma times their scores, as in full_step_dpo: the best steps of the chosen
    response count most, and the worst of the rejected one. They add up to 1, or with `scale_by_steps` to the number of
    steps."""
    scores = response.read("step_scores")
    there = scores.isfinite()
    numbers = part_numbers(response, "step", there)
    signed = scores * (-gamma if response is pairs.rejected else gamma)
    share = torch.where(there, signed, -math.inf).softmax(-1).to(response.policy.dtype)
    if scale_by_steps:
        share = share * there.sum(-1, keepdim=True)
    return torch.where(numbers >= 0, share.gather(-1, numbers.clamp_min(0)), 0.0)


def part_numbers(response: ResponseLogps, part: Literal["step", "segment"], scored: Tensor) -> Tensor:
    """The number of the part that each token belongs to, -1 outside, [b, t]; `scored` [b, k] are the parts with a
    score. Raises `UserError` where a token's part has none, and where a response has no parts."""
    numbers = torch.where(response.mask, response.read(f"{part}s"), -1)
    if not bool(scored.any(-1).all()):
        raise UserError(f"a response has no {part}_scores", hint=f"give every response at least one scored {part}")
    known = pad(scored, (0, max(0, int(numbers.max()) + 1 - scored.shape[1])))
    if not bool((known.gather(-1, numbers.clamp_min(0)) | (numbers < 0)).all()):
        raise UserError(f"{part}_scores lack the score of a {part} that has tokens", hint=f"score every {part}")
    return numbers


# ---- by the weights of tokens that a pair brings


@ratio("span", reads=("weights",))
def by_span(response: ResponseLogps, pairs: PairLogps) -> Tensor:
    """The pair's own weights of tokens, from its character spans, as in span_dpo."""
    return span_weights(response)


@ratio("dense", reads=("weights",), averages=True, paper="arXiv 2312.00849")
def by_span_density(response: ResponseLogps, pairs: PairLogps) -> Tensor:
    """The same, divided by their sum, as in dense_dpo."""
    return dense_weights(response)


@ratio("subset", reads=("weights",), paper="arXiv 2406.06496")
def by_subset(
    response: ResponseLogps,
    pairs: PairLogps,
    *,
    gamma: Share = 0.5,
    normalise: Normalise = "none",
    eos_weight: EndWeight = "irrelevant",
) -> Tensor:
    """m + gamma (1 - m) for weights m in [0, 1], as in subset_dpo; divided by its sum with `normalise:
    weighted_count`."""
    weights = subset_weights(response, gamma, eos_weight)
    return weights if normalise == "none" else _normalised(weights)


@ratio("bmc", reads=("weights",), paper="arXiv 2408.07471")
def by_doubt(response: ResponseLogps, pairs: PairLogps, *, cap: Positive = 2.0) -> Tensor:
    """1 + min(1/pi(y_t), cap) for tokens that differ, which are those whose weight is not 1, else 1, as in dpo_bmc:
    tokens that the policy is unsure of count more."""
    return doubt_weights(response, response.policy, cap)


def span_weights(response: ResponseLogps) -> Tensor:
    """The weights of the tokens, [b, t]. Raises `UserError` where the pairs bring none."""
    if response.weights is None:
        raise UserError(
            "this objective needs token weights, and these pairs have none",
            hint="use dpo, token_weights, or data with chosen_weights and rejected_weights",
        )
    return response.weights


def dense_weights(response: ResponseLogps) -> Tensor:
    """The weights of the tokens divided by their sum, [b, t]; 0 for a response whose weights are all 0."""
    return _normalised(span_weights(response) * response.mask)


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)


def subset_weights(response: ResponseLogps, gamma: float, eos_weight: EndWeight = "irrelevant") -> Tensor:
    """w_t = m_t + gamma (1 - m_t) at scored tokens, [b, t]; m_t in [0, 1] are the pair's own token weights.

    The end of the text belongs to no span. Its token, the last scored one, weighs gamma or, as "relevant", 1.
    """
    given = span_weights(response)
    mask = response.mask.to(given.dtype)
    last = (mask.cumsum(-1) == mask.sum(-1, keepdim=True)) & response.mask
    relevant = torch.where(last, float(eos_weight == "relevant"), given * mask)
    return (relevant + gamma * (1 - relevant)) * mask


def doubt_weights(response: ResponseLogps, logps: Tensor, cap: float) -> Tensor:
    """1 + min(1/p, cap) at tokens that differ, else 1, where log p are `logps` [b, t]; without gradient."""
    unsure = (-logps.detach()).clamp_max(math.log(cap)).exp()
    return 1 + (span_weights(response) != 1) * unsure
