"""Numbers of each token that take its whole distribution over the vocabulary, without logits kept.

As in `logprob`, the n scored positions reach the head a chunk at a time and sums are float32 or wider. A chunk's logits
and log-softmaxes are made once for all statistics that are asked for. Of a chunk survive one number a token and
statistic and, with a frozen head, its derivative with respect to the policy's hidden state, so that backward needs no
head at all. With a trainable head the chunks are computed again in backward.

Shapes: n scored tokens, h hidden, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmpo.models.scoring.logprob import CHUNK_ELEMENTS, logits_of, plain_head


class ChunkStatistic(Protocol):
    """A number of each token, made of a chunk of log-softmaxes: the policy's `ours` and the reference's `theirs`, both
    [rows, v]; `theirs` is None where there is no reference."""

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        """[rows]"""
        ...

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        """The derivative of the value with respect to the policy's logits, [rows, v]."""
        ...


def chunk_statistics(
    statistics: Sequence[ChunkStatistic],
    policy: Tensor,
    head: nn.Module,
    reference: Tensor | None = None,
    reference_head: nn.Module | None = None,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, ...]:
    """The value [n] of each statistic for hidden states `policy` [n, h] under `head` and `reference` [n, h] under
    `reference_head`, or `head` without it. `chunk` tokens at a time (default: by memory); `softcap` as in
    `token_logps`. The gradient reaches the policy and its head alone."""
    own, other = plain_head(head), plain_head(reference_head if reference_head is not None else head)
    theirs = (None,) * 3
    if reference is not None:
        theirs = (reference.detach(), other.weight.detach(), None if other.bias is None else other.bias.detach())
    chunk = chunk or max(1, CHUNK_ELEMENTS // own.out_features)
    found: tuple[Tensor, ...] = _ChunkStatistics.apply(
        policy, own.weight, own.bias, *theirs, tuple(statistics), chunk, softcap
    )
    return found


def normalized(by_logp: Tensor, ours: Tensor) -> Tensor:
    """From the derivative with respect to log-probs to that with respect to logits, [rows, v]."""
    return by_logp - ours.exp() * by_logp.sum(dim=-1, keepdim=True)


class _ChunkStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        policy: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: Tensor | None,
        reference_weight: Tensor | None,
        reference_bias: Tensor | None,
        statistics: tuple[ChunkStatistic, ...],
        chunk: int,
        softcap: float | None,
    ) -> tuple[Tensor, ...]:
        n = len(policy)
        wide = torch.promote_types(weight.dtype, torch.float32)
        found = tuple(torch.empty(n, dtype=wide, device=policy.device) for _ in statistics)
        trainable_head = weight.requires_grad or (bias is not None and bias.requires_grad)
        keep = ctx.needs_input_grad[0] and not trainable_head
        slopes = tuple(torch.empty_like(policy) for _ in statistics) if keep else ()
        for start in range(0, n, chunk):
            rows = slice(start, min(start + chunk, n))
            logits = logits_of(policy[rows], weight, bias, softcap)
            ours, theirs = logits.log_softmax(dim=-1), None
            if reference is not None:
                assert reference_weight is not None
                theirs = logits_of(reference[rows], reference_weight, reference_bias, softcap).log_softmax(dim=-1)
            for statistic, values in zip(statistics, found, strict=True):
                values[rows] = statistic.value(ours, theirs)
            for statistic, slope in zip(statistics, slopes, strict=False):
                slope[rows] = _unbent(statistic.slope(ours, theirs), logits, softcap).to(weight.dtype) @ weight
        ctx.trainable_head, ctx.statistics, ctx.chunk, ctx.softcap = trainable_head, statistics, chunk, softcap
        if keep:
            ctx.save_for_backward(*slopes)
        elif any(ctx.needs_input_grad):
            ctx.save_for_backward(policy, weight, bias, reference, reference_weight, reference_bias)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        rest = (None,) * 6
        if not ctx.trainable_head:
            arrived = [(slope, grad) for slope, grad in zip(ctx.saved_tensors, grads, strict=True) if grad is not None]
            moved = [slope.to(grad.dtype) * grad[:, None] for slope, grad in arrived]
            return (torch.stack(moved).sum(0).to(arrived[0][0].dtype) if moved else None, None, None, *rest)
        policy, weight, bias, reference, reference_weight, reference_bias = ctx.saved_tensors
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_policy = torch.zeros_like(policy)
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=wide, device=bias.device)
        for start in range(0, len(policy), ctx.chunk):
            rows = slice(start, min(start + ctx.chunk, len(policy)))
            logits = logits_of(policy[rows], weight, bias, ctx.softcap)
            ours, theirs = logits.log_softmax(dim=-1), None
            if reference is not None:
                theirs = logits_of(reference[rows], reference_weight, reference_bias, ctx.softcap).log_softmax(dim=-1)
            total = torch.zeros_like(logits)
            for statistic, grad in zip(ctx.statistics, grads, strict=True):
                if grad is not None:
                    total += statistic.slope(ours, theirs) * grad[rows, None]
            total = _unbent(total, logits, ctx.softcap)
            grad_policy[rows] = total.to(weight.dtype) @ weight
            grad_weight += total.T @ policy[rows].to(wide)
            if grad_bias is not None:
                grad_bias += total.sum(dim=0)
        bias_slope = grad_bias.to(bias.dtype) if grad_bias is not None else None
        return (grad_policy, grad_weight.to(weight.dtype), bias_slope, *rest)


def _unbent(by_logit: Tensor, logits: Tensor, softcap: float | None) -> Tensor:
    """The derivative with respect to the head's own output: d (c tanh(z / c)) / dz = 1 - tanh(z / c)^2."""
    return by_logit if softcap is None else by_logit * (1 - (logits / softcap).square())
