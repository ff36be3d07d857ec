"""DPO over the parts of a response: turns of a conversation, steps of a solution, segments with scores of their own.

Notation as in `pairwise`; A_k, B_k are the log-ratios of chosen and rejected summed over their k-th part. A token
outside all parts counts nothing. Weights and scores carry no gradient.

Shapes: b pairs, t tokens of a response (padded), k parts (padded), i aspects of a score.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.pairwise import dpo
from mmpo.objectives.parameters import FlipRate, NonNegative, Positive, PositiveShare
from mmpo.objectives.ratios import by_step, by_turn, part_numbers
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, per_pair, token_log_ratios
from mmpo.objectives.weighing import reweighed
from mmpo.types import PairLogps, ResponseLogps


@objective("dmpo", reads=("reference", "turns"), paper="arXiv 2406.14868", spec="7")
def dmpo(pairs: PairLogps, *, beta: Positive = 0.1, gamma: PositiveShare = 0.7) -> Term:
    """softplus(-beta (U_w - U_l)), U = sum_t u_t (p_t - q_t), the tokens of turn j of n weighing u = gamma^j
    (1 - gamma^(n-j)) / (1 - gamma^n), j from 0; with gamma = 1, (n - j) / n. DMPO, Shi et al. 2024 (arXiv 2406.14868).

    Early turns count more, since later ones follow from them. Only the assistant's turns are counted, those of chosen
    and rejected each for themselves. A response of one turn weighs 1 throughout: then it is dpo.
    """

    return dpo(reweighed(pairs, by_turn, gamma=gamma), beta=beta)


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

    return dpo(reweighed(pairs, by_step, gamma=gamma, scale_by_steps=scale_by_steps), beta=beta)


Aspects = Literal["equal"] | Annotated[list[NonNegative], Field(min_length=1)]


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
    there = scores.isfinite()
    ratios = segment_log_ratios(response, there)
    last = -math.inf if descending else math.inf  # what is not there comes behind
    order = torch.where(there, scores, last).argsort(dim=-1, descending=descending, stable=True)
    scores = torch.where(there, scores, 0.0).to(ratios.dtype)
    return scores.gather(-1, order), ratios.gather(-1, order), there.gather(-1, order)


def segment_log_ratios(response: ResponseLogps, scored: Tensor) -> Tensor:
    """The log-ratio of each of a response's segments, [b, k]; `scored` [b, k] are those with a score."""
    numbers = part_numbers(response, "segment", scored)
    ratios = token_log_ratios(response)
    columns = ratios.new_zeros(len(ratios), scored.shape[1] + 1)
    return columns.scatter_add(1, numbers + 1, ratios)[:, 1:]
