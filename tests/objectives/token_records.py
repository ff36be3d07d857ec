"""Responses token by token in float64, with whatever a loss reads of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmpo.objectives import build_objective
from mmpo.types import PairLogps, ResponseLogps, ViewSpec
from tests.objectives.golden_records import record

LOG2 = math.log(2)


def answer(ratios: Sequence[float], **fields: Any) -> ResponseLogps:
    """One response whose tokens have these log-ratios; the reference is -1 throughout unless given."""
    reference = fields.pop("reference", [-1.0] * len(ratios))
    policy = [one + other for one, other in zip(ratios, reference, strict=True)]
    return record([{"policy": policy, "reference": reference, **fields}])


def losses(name: str, chosen: ResponseLogps, rejected: ResponseLogps, views: Any = None, **given: Any) -> Tensor:
    found: dict[ViewSpec, ResponseLogps] = dict(views or {})
    return build_objective({name: given}).terms(PairLogps(chosen, rejected, found))[name][1].values


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def gradient(values: Tensor, *of: Tensor) -> list[list[float] | None]:
    """The derivative of the summed values; None where there is no path."""
    found = torch.autograd.grad(values.sum(), of, allow_unused=True)
    return [None if slope is None else slope.flatten().tolist() for slope in found]
