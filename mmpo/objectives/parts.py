"""DPO over the parts of a response: turns of a conversation, steps of a solution, segments with scores of their own.

Notation as in `pairwise`; A_k, B_k are the log-ratios of chosen and rejected summed over their k-th part. A token
outside all parts counts nothing. Weights and scores carry no gradient.

Shapes: b pairs, t tokens of a response (padded), k parts (padded), i aspects of a score.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import FlipRate, NonNegative, Positive, PositiveShare
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, per_pair, token_log_ratios
from mmpo.types import PairLogps, ResponseLogps


@objective("dmpo", reads=("reference", "turns"), paper="arXiv 2406.14868", spec="7")
def dmpo(pairs: PairLogps, *, beta: Positive = 0.1, gamma: PositiveShare = 0.7) -> Term:
    """softplus(-beta (U_w - U_l)), U = sum_t u_t (p_t - q_t), the tokens of turn j of n weighing u = gamma^j
    (1 - gamma^(n-j)) / (1 - gamma^n), j from 0; with gamma = 1, (n - j) / n. DMPO, Shi et al. 2024 (arXiv 2406.14868).

    Early turns count more, since later ones follow from them. Only the assistant's turns are counted, those of chosen
    and rejected each for themselves. A response of one turn weighs 1 throughout: then it is dpo.
    """

    def score(response: ResponseLogps) -> Tensor:
        return (turn_weights(response, gamma) * token_log_ratios(response)).sum(-1)

    return per_pair(softplus(-beta * (score(pairs.chosen) - score(pairs.rejected))))


def turn_weights(response: ResponseLogps, gamma: float) -> Tensor:
    """The weight of each token, [b, t]; 0 outside turns."""
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


@objective(
    "full_step_dpo",
    reads=("reference", "steps"),
    paper="arXiv 2502.14356",
    spec="7",
    identities=(Identity({"gamma": 0.0, "scale_by_steps": True}, "dpo"),),
)
def full_step_dpo(
    pairs: PairLogps, *, beta: Positive = 0.1, gamma: NonNegative = 1.0, scale_by_steps: bool = False
) -> Term:
    """softplus(-beta (sum_k alpha_k A_k - sum_k alpha'_k B_k)), alpha = softmax(gamma s) over the steps of the chosen
    response and alpha' = softmax(-gamma s) over those of the rejected one: good steps of the one and bad steps of the
    other count most. Full-Step-DPO (arXiv 2502.14356), known to us from a third party's implementation only; the
    default of gamma is ours.

    The weights of a response add up to 1, so the margin is smaller than dpo's by the number of steps; `scale_by_steps`
    multiplies each response's sum by its number.
    """

    def score(response: ResponseLogps, sign: int) -> Tensor:
        scores = response.read("step_scores")
        ratios, there = part_log_ratios(response, "step", scores.isfinite())
        weights = torch.where(there, sign * gamma * scores, -math.inf).softmax(-1).to(ratios.dtype)
        total = (weights * ratios).sum(-1)
        return total * there.sum(-1) if scale_by_steps else total

    return per_pair(softplus(-beta * (score(pairs.chosen, 1) - score(pairs.rejected, -1))))


Aspects = Literal["equal"] | list[NonNegative]


@objective("dpo_2d", reads=("reference", "segments"), paper="arXiv 2410.19720", spec="7")
def dpo_2d(pairs: PairLogps, *, beta: Positive = 0.1, aspects: Aspects = "equal", eps: FlipRate = 0.0) -> Term:
    """sum_k softplus(-beta (r_k A_k - r'_k B_k)), r a segment's score: the k-th best segment of the chosen response
    meets the k-th worst of the rejected one, as many as the one with fewer segments has. Segments of equal score keep
    their order. 2D-DPO, Li et al. 2024 (arXiv 2410.19720).

    A segment's score is the sum of its aspects' scores weighted by `aspects`, a number for each; `equal` is their mean.
    The sum over k is not divided. `eps` is the share of segments that are matched the wrong way around: each one's
    term is then that of `robust`, which is our reconstruction of Robust 2D-DPO (arXiv 2505.01706).
    """
    best, ratios_w, there_w = _by_score(pairs.chosen, aspects, descending=True)
    worst, ratios_l, there_l = _by_score(pairs.rejected, aspects, descending=False)
    count = min(best.shape[1], worst.shape[1])
    z = beta * (best * ratios_w)[:, :count] - beta * (worst * ratios_l)[:, :count]
    terms = ((1 - eps) * softplus(-z) - eps * softplus(z)) / (1 - 2 * eps)
    matched = there_w[:, :count] & there_l[:, :count]
    return per_pair(torch.where(matched, terms, 0.0).sum(-1))


def _by_score(
    response: ResponseLogps, aspects: Literal["equal"] | list[float], *, descending: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, log-ratios and which of them there are, [b, k], of a response's segments in the order of their scores."""
    given = response.read("segment_scores")  # [b, k, i]
    if aspects == "equal":
        scores = given.mean(-1)
    elif len(aspects) == given.shape[-1]:
        scores = given @ given.new_tensor(aspects)
    else:
        raise UserError(f"dpo_2d.aspects has {len(aspects)} weights, and segment_scores have {given.shape[-1]} aspects")
    partly = given.isnan().any(-1) & ~given.isnan().all(-1)
    if bool(partly.any()):
        raise UserError("segment_scores lack the score of an aspect", hint="score every segment in every aspect")
    ratios, there = part_log_ratios(response, "segment", scores.isfinite())
    last = -math.inf if descending else math.inf  # what is not there comes behind
    order = torch.where(there, scores, last).argsort(dim=-1, descending=descending, stable=True)
    scores = torch.where(there, scores, 0.0).to(ratios.dtype)
    return scores.gather(-1, order), ratios.gather(-1, order), there.gather(-1, order)


def part_log_ratios(response: ResponseLogps, part: Literal["step", "segment"], scored: Tensor) -> tuple[Tensor, Tensor]:
    """The log-ratio of each of a response's parts and which of them are `scored`, both [b, k].

    Raises `UserError` where a token belongs to a part that has no score, and where a response has no parts.
    """
    numbers = torch.where(response.mask, response.read(f"{part}s"), -1)
    if not bool(scored.any(-1).all()):
        raise UserError(f"a response has no {part}_scores", hint=f"give every response at least one scored {part}")
    known = pad(scored, (0, max(0, int(numbers.max()) + 1 - scored.shape[1])))
    if not bool((known.gather(-1, numbers.clamp_min(0)) | (numbers < 0)).all()):
        raise UserError(f"{part}_scores lack the score of a {part} that has tokens", hint=f"score every {part}")
    ratios = token_log_ratios(response)
    columns = ratios.new_zeros(len(ratios), scored.shape[1] + 1)
    return columns.scatter_add(1, numbers + 1, ratios)[:, 1:], scored
