"""Divergence of the policy's next-token distributions from the reference's, token by token, without logits kept.

As in `logprob`, the n scored positions reach the head a chunk at a time and sums are float32. Of a chunk of logits only
one number a token survives, and with a frozen head the derivative with respect to the policy's hidden states, `(p - q)
W`, p the policy's probabilities and q the reference's.

Shapes: n scored tokens, h hidden, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmpo.models.scoring.logprob import CHUNK_ELEMENTS, logits_of, plain_head


def token_kl(
    policy: Tensor,
    reference: Tensor,
    head: nn.Module,
    reference_head: nn.Module | None = None,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """KL(q || p) [n] float32 of q = softmax(reference_head(reference)) and p = softmax(head(policy)), hidden states
    [n, h]; without `reference_head` both share `head`. The gradient reaches the policy and its head alone.

    The sequential KL of TDPO (arXiv 2404.11999) and CHiP (2501.16629) is its sum over a response.
    """
    own, other = plain_head(head), plain_head(reference_head if reference_head is not None else head)
    chunk = chunk or max(1, CHUNK_ELEMENTS // own.out_features)
    found: Tensor = _TokenKL.apply(
        policy, own.weight, own.bias, reference.detach(), other.weight.detach(), _detached(other.bias), chunk, softcap
    )
    return found


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


class _TokenKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        policy: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: Tensor,
        reference_weight: Tensor,
        reference_bias: Tensor | None,
        chunk: int,
        softcap: float | None,
    ) -> Tensor:
        n = len(policy)
        wide = torch.promote_types(weight.dtype, torch.float32)
        divergence = torch.empty(n, dtype=wide, device=policy.device)
        trainable_head = weight.requires_grad or (bias is not None and bias.requires_grad)
        slope = torch.empty_like(policy) if ctx.needs_input_grad[0] and not trainable_head else None
        for start in range(0, n, chunk):
            rows = slice(start, min(start + chunk, n))
            logits = logits_of(policy[rows], weight, bias, softcap)
            ours = logits.log_softmax(dim=-1)
            theirs = logits_of(reference[rows], reference_weight, reference_bias, softcap).log_softmax(dim=-1)
            q = theirs.exp()
            # 0 log 0 is 0: a probability that underflows must not meet the other's infinite logarithm
            divergence[rows] = torch.where(q > 0, q * (theirs - ours), 0.0).sum(dim=-1)
            if slope is not None:
                by_logit = _by_logit(ours, q, logits, softcap)
                slope[rows] = by_logit.to(weight.dtype) @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        elif any(ctx.needs_input_grad):
            ctx.save_for_backward(policy, weight, bias, reference, reference_weight, reference_bias)
        ctx.trainable_head, ctx.chunk, ctx.softcap = trainable_head, chunk, softcap
        return divergence

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        rest = (None,) * 5
        if not ctx.trainable_head:
            (slope,) = ctx.saved_tensors
            return ((slope.to(grad.dtype) * grad[:, None]).to(slope.dtype), None, None, *rest)
        policy, weight, bias, reference, reference_weight, reference_bias = ctx.saved_tensors
        grad_policy = torch.empty_like(policy)
        grad_weight = torch.zeros(weight.shape, dtype=grad.dtype, device=weight.device)
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=grad.dtype, device=bias.device)
        for start in range(0, len(policy), ctx.chunk):
            rows = slice(start, min(start + ctx.chunk, len(policy)))
            logits = logits_of(policy[rows], weight, bias, ctx.softcap)
            q = logits_of(reference[rows], reference_weight, reference_bias, ctx.softcap).softmax(dim=-1)
            by_logit = _by_logit(logits.log_softmax(dim=-1), q, logits, ctx.softcap).mul_(grad[rows, None])
            grad_policy[rows] = by_logit.to(weight.dtype) @ weight
            grad_weight += by_logit.T @ policy[rows].to(grad.dtype)
            if grad_bias is not None:
                grad_bias += by_logit.sum(dim=0)
        bias_slope = grad_bias.to(bias.dtype) if grad_bias is not None else None
        return (grad_policy, grad_weight.to(weight.dtype), bias_slope, *rest)


def _by_logit(ours: Tensor, q: Tensor, logits: Tensor, softcap: float | None) -> Tensor:
    """dKL / dz [rows, v] = p - q, through the bend of capped logits where there is one."""
    slope = ours.exp() - q
    if softcap is not None:  # d (c tanh(z / c)) / dz = 1 - tanh(z / c)^2
        slope = slope * (1 - (logits / softcap).square())
    return slope
