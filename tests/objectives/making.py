"""Responses by hand, and the value of a loss on them."""

from __future__ import annotations

import math
from typing import Any

import torch

from mmpo.objectives import build_objective
from mmpo.types import PairLogps, ResponseLogps

LOG2 = math.log(2)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def response(
    policy: list[float],
    reference: list[float] | None = None,
    weights: list[float] | None = None,
    kl: list[float] | None = None,
    pad: int = 0,
) -> ResponseLogps:
    """One response from its tokens, float64, with `pad` places of padding behind it."""

    def row(values: list[float] | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor([values + [0.0] * pad], dtype=torch.float64)

    mask = torch.arange(len(policy) + pad)[None] < len(policy)
    given = row(policy)
    assert given is not None
    return ResponseLogps(
        given.requires_grad_(), row(reference or [0.0] * len(policy)), mask, row(weights), kl=row(kl or policy)
    )


def value(name: str, pairs: PairLogps, **parameters: Any) -> float:
    return build_objective({name: parameters}).loss(pairs).item()
