"""Losses that compare with more than one frozen model. Notation as in `pairwise`.

Shapes: b pairs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.objectives.parameters import Positive, Share
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, per_pair
from mmpo.types import PairLogps, ResponseLogps


@objective(
    "mrpo",
    reads=("reference", "second_reference"),
    paper="arXiv 2405.16388",
    spec="8",
    identities=(Identity({"eps": 0.0}, "dpo"), Identity({"alpha": 0.0}, "dpo")),
)
def mrpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    eps: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    alpha: Literal["adaptive"] | Share = "adaptive",
    order: Literal["derived", "released"] = "derived",
) -> Term:
    """DPO against one reference made of two, the weighted harmonic mean of their probabilities: 1 / (alpha / Q1 + (1 -
    alpha) / Q2), Q1 the second reference's and Q2 the first's. MRPO, Le et al. 2024 (arXiv 2405.16388).

    log Q1 is held within a share of log Q2 first: eps is divided between chosen and rejected in proportion to the
    mean of both references' log-probs. An `adaptive` alpha is the second reference's share in the two references' gaps
    |log Q(y_w) - log Q(y_l)|, before that. `order: released` gives alpha to Q2 and 1 - alpha to Q1, as the code does.
    Equal references make it dpo.
    """
    chosen, rejected = merged_references(pairs, eps, alpha, order)
    gap = (pairs.chosen.policy_sum - chosen) - (pairs.rejected.policy_sum - rejected)
    return per_pair(softplus(-beta * gap))


def merged_references(
    pairs: PairLogps, eps: float, alpha: Literal["adaptive"] | float, order: Literal["derived", "released"]
) -> tuple[Tensor, Tensor]:
    """The log-prob of chosen and rejected under the merged reference, both [b]."""
    sides = (pairs.chosen, pairs.rejected)
    first_w, first_l = (side.reference_sum for side in sides)
    second_w, second_l = (_second_sum(side) for side in sides)
    if alpha == "adaptive":
        ours, theirs = (second_w - second_l).abs(), (first_w - first_l).abs()
        share = ours / (ours + theirs + 1e-6)
    else:
        share = torch.full_like(first_w, alpha)
    mean_w, mean_l = (first_w + second_w).abs() / 2, (first_l + second_l).abs() / 2
    room_w = eps * mean_w / (mean_w + mean_l).clamp_min(torch.finfo(mean_w.dtype).tiny)
    return (
        _harmonic(_held(second_w, first_w, room_w), first_w, share, order),
        _harmonic(_held(second_l, first_l, eps - room_w), first_l, share, order),
    )


def _second_sum(response: ResponseLogps) -> Tensor:
    return response.read("second_reference").sum(-1)


def _held(second: Tensor, first: Tensor, room: Tensor) -> Tensor:
    """`second` within that share of `first`, which is a log-prob, so negative."""
    return torch.minimum(torch.maximum(second, first * (1 + room)), first * (1 - room))


def _harmonic(second: Tensor, first: Tensor, share: Tensor, order: Literal["derived", "released"]) -> Tensor:
    """-log(share / Q1 + (1 - share) / Q2); logaddexp(-inf, x) is x, so that a share of 0 or 1 is exact."""
    if order == "released":
        share = 1 - share
    return -torch.logaddexp(share.log() - second, (-share).log1p() - first)
