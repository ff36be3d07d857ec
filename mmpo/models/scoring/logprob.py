"""Log-probabilities of chosen tokens without a logits tensor.

Only the n scored positions reach the head, a chunk at a time, and sums are float32. With a frozen head (LoRA) the
derivative of a log-prob with respect to its hidden state, `W[target] - softmax(h W^T) W`, does not depend on the
loss, so it is computed while the softmax is there: one more matrix product in forward, none in backward, nothing of
size [n, v] kept. With a trainable head the chunks are computed again in backward and the weight's gradient
accumulates in float32.

Shapes: n scored tokens, h hidden, v vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpo.errors import UserError

# Elements of a chunk of logits: 8M floats are 32 MB, small against the activations, large enough for a fast product.
CHUNK_ELEMENTS = 8 * 1024 * 1024


class TokenLogps(NamedTuple):
    """`logps` [n] float32; `top1` [n] bool, whether the target is the model's first choice; `best` [n], that choice,
    empty unless requested."""

    logps: Tensor
    top1: Tensor
    best: Tensor


def token_logps(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
    best: bool = False,
) -> TokenLogps:
    """Log-prob of `targets` [n] under `head(hidden)`, hidden [n, h]. `chunk` tokens at a time (default: by memory).
    `softcap` c bends the logits z to `c tanh(z / c)`. `best`: also which tokens the model prefers."""
    plain = plain_head(head)
    chunk = chunk or max(1, CHUNK_ELEMENTS // plain.out_features)
    return TokenLogps(*_TokenLogps.apply(hidden, plain.weight, plain.bias, targets, chunk, softcap, best))


def plain_head(head: nn.Module) -> nn.Linear:
    """The head as the linear layer it must be; `UserError` where an adapter sits on it."""
    if type(head) is not nn.Linear:
        raise UserError(
            f"the language-model head is a {type(head).__name__}, not a plain linear layer",
            hint="leave lm_head out of the adapter's target modules",
        )
    return head


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
        wants_best: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = len(targets)
        logps = torch.empty(n, dtype=torch.float32, device=hidden.device)
        top1 = torch.empty(n, dtype=torch.bool, device=hidden.device)
        best = torch.empty(n if wants_best else 0, dtype=torch.long, device=hidden.device)
        trainable_head = weight.requires_grad or (bias is not None and bias.requires_grad)
        keep_slope = ctx.needs_input_grad[0] and not trainable_head
        slope = torch.empty_like(hidden) if keep_slope else None
        for start in range(0, n, chunk):
            rows = slice(start, min(start + chunk, n))
            logits = logits_of(hidden[rows], weight, bias, softcap)
            steepness = 1 - (logits / softcap).square() if softcap is not None and slope is not None else None
            if wants_best:  # slower than the maximum alone
                largest, best[rows] = logits.max(dim=-1)
            else:
                largest = logits.amax(dim=-1)
            target_logits = logits.gather(1, targets[rows, None]).squeeze(1)
            top1[rows] = target_logits >= largest
            exponentials = logits.sub_(largest[:, None]).exp_()
            total = exponentials.sum(dim=-1)
            logps[rows] = target_logits - largest - total.log()
            if slope is None:
                continue
            if steepness is None:
                expected = (exponentials.to(weight.dtype) @ weight) / total[:, None]
                slope[rows] = weight[targets[rows]] - expected
            else:
                by_logit = exponentials.div_(total[:, None]).neg_()
                by_logit.scatter_add_(1, targets[rows, None], torch.ones_like(by_logit[:, :1]))
                slope[rows] = by_logit.mul_(steepness).to(weight.dtype) @ weight
        ctx.chunk, ctx.softcap = chunk, softcap
        if slope is not None:
            ctx.save_for_backward(slope)
        elif any(ctx.needs_input_grad):
            ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.trainable_head = trainable_head
        ctx.mark_non_differentiable(top1, best)
        return logps, top1, best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        if not ctx.trainable_head:
            (slope,) = ctx.saved_tensors
            return (slope.float() * grad[:, None]).to(slope.dtype), None, None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        for start in range(0, len(targets), ctx.chunk):
            rows = slice(start, min(start + ctx.chunk, len(targets)))
            # d logp_i / d logits_i = onehot(target_i) - softmax(logits_i)
            logits = logits_of(hidden[rows], weight, bias, ctx.softcap)
            by_logit = logits.softmax(dim=-1).neg_()
            by_logit.scatter_add_(1, targets[rows, None], torch.ones_like(by_logit[:, :1]))
            by_logit.mul_(grad[rows, None])
            if ctx.softcap is not None:  # d (c tanh(z / c)) / dz = 1 - tanh(z / c)^2
                by_logit.mul_(1 - (logits / ctx.softcap).square())
            grad_hidden[rows] = by_logit.to(weight.dtype) @ weight
            grad_weight += by_logit.T @ hidden[rows].float()
            if grad_bias is not None:
                grad_bias += by_logit.sum(dim=0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
            None,
            None,
            None,
        )


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Logits [rows, v] of one chunk, float32 (float64 where the head is)."""
    logits = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if softcap is None else (logits / softcap).tanh_() * softcap
