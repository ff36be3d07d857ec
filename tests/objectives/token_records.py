"""Responses token by token in float64, with whatever a loss reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmpo.objectives import build_objective
from mmpo.types import PairLogps, ResponseLogps, ViewSpec

PLAIN = ("policy", "reference", "weights", "kl")
PARTS = ("turns", "steps", "segments")
DIFFERENTIABLE = ("policy", "kl", "tail_kl", "eos_policy", "label_logit", "label_logit_corrupted")


def record(responses: list[dict[str, Any]], pad: int = 0) -> ResponseLogps:
    """Responses as a file of golden values writes them, padded to the longest and by `pad` more places."""
    lengths = [len(one["policy"]) for one in responses]
    width = max(lengths) + pad
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    fields: dict[str, torch.Tensor] = {}
    for name in sorted({key for one in responses for key in one}):
        rows: list[Any] = [one.get(name, []) for one in responses]
        if name == "positions":
            fields[name] = torch.zeros(len(rows), width, dtype=torch.bool)
            for number, row in enumerate(rows):
                fields[name][number, row] = True
        elif name in PARTS:
            fields[name] = torch.tensor([[*row, *([-1] * (width - len(row)))] for row in rows])
        elif name.endswith("_scores"):
            parts = [torch.tensor(row, dtype=torch.float64) for row in rows]
            shape = (len(rows), max(map(len, parts)), *parts[0].shape[1:])
            fields[name] = torch.full(shape, float("nan"), dtype=torch.float64)
            for number, part in enumerate(parts):
                fields[name][number, : len(part)] = part
        else:
            fields[name] = torch.zeros(len(rows), width, dtype=torch.float64)
            for number, row in enumerate(rows):
                fields[name][number, : len(row)] = torch.tensor(row, dtype=torch.float64)
    for name in DIFFERENTIABLE:
        if name in fields:
            fields[name].requires_grad_()
    plain = {name: fields.pop(name) for name in PLAIN if name in fields}
    return ResponseLogps(
        plain["policy"], plain.get("reference"), mask, plain.get("weights"), kl=plain.get("kl"), more=fields
    )


def answer(ratios: Sequence[float], **fields: Any) -> ResponseLogps:
    """One response whose tokens have these log-ratios; the reference is -1 throughout unless given."""
    reference = fields.pop("reference", [-1.0] * len(ratios))
    policy = [one + other for one, other in zip(ratios, reference, strict=True)]
    return record([{"policy": policy, "reference": reference, **fields}])


def losses(name: str, chosen: ResponseLogps, rejected: ResponseLogps, views: Any = None, **given: Any) -> Tensor:
    found: dict[ViewSpec, ResponseLogps] = dict(views or {})
    return build_objective({name: given}).terms(PairLogps(chosen, rejected, found))[name][1].values


def gradient(values: Tensor, *of: Tensor) -> list[list[float] | None]:
    """The derivative of the summed values; None where there is no path."""
    found = torch.autograd.grad(values.sum(), of, allow_unused=True)
    return [None if slope is None else slope.flatten().tolist() for slope in found]
