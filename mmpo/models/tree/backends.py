"""Back ends of attention over trees, chosen when scoring is set up.

    plain    a few ordinary SDPA calls a tree, with masks where a family needs them     everywhere
    dense    one SDPA call a tree under its whole mask; slow, to compare with           everywhere
    varlen   one variable-length FlashAttention call over the row; causal families      CUDA, half precision
    flex     one FlexAttention call over the row                                        CUDA
    auto     varlen where it can run, else plain

varlen and flex depend on kernels of this machine. Before the first step they compute a small tree, forward and
backward, and are not used where they differ from plain.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Literal, get_args

import torch
from torch.utils.checkpoint import checkpoint

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.tree.attention import tree_attention
from mmpo.models.tree.kernels import varlen_kernel
from mmpo.models.tree.layout import AttentionBackend, AttentionRules, Segment, pack

logger = logging.getLogger(__name__)

Attention = Literal["auto", "plain", "dense", "flex", "varlen"]

# Relative error of outputs and gradients: far above rounding, far below what a wrong mask gives.
_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 5e-2, torch.float16: 2e-2}


def choose_attention(asked: Attention, vlm: VLM) -> AttentionBackend:
    """The back end for this model. Raises `UserError` with the reason where the requested one can't be used."""
    if asked not in get_args(Attention):
        raise UserError(f"attention={asked!r} is unknown", hint=f"one of {', '.join(get_args(Attention))}")
    if asked == "plain" or asked == "dense":
        return asked
    backend: AttentionBackend = "varlen" if asked == "auto" else asked
    if why := unsupported_reason(backend, vlm):
        if asked == "auto":
            return "plain"
        raise UserError(f"attention={asked} can't be used: {why}", hint="attention: auto takes what works here")
    if problem := kernel_problem(backend, vlm):
        if asked != "auto":
            raise UserError(f"attention={asked} can't be used: {problem}", hint="attention: auto takes what works here")
        logger.warning("%s attention is left out: %s", backend, problem)
        return "plain"
    return backend


def unsupported_reason(backend: AttentionBackend, vlm: VLM) -> str:
    """Why this model can't use a back end on its device; empty if it can."""
    text = vlm.config.get_text_config()
    if backend == "plain" or backend == "dense":
        return ""
    if getattr(text, "attention_dropout", 0.0):
        return "its kernel has no dropout, and the model's attention_dropout is not 0"
    if getattr(text, "attn_logit_softcapping", None) is not None:
        # FlexAttention could, but its gradients were wrong when checkpointing recomputed them (torch 2.13, unfused).
        return "the model caps its attention scores, which its kernel doesn't"
    if backend == "flex":
        return "" if vlm.device.type == "cuda" else "FlexAttention has no backward pass on a CPU"
    if vlm.device.type != "cuda":
        return "its kernel runs on CUDA only"
    if vlm.dtype not in (torch.bfloat16, torch.float16):
        return f"its kernel takes half precision only, and the model is {str(vlm.dtype).removeprefix('torch.')}"
    if vlm.family.blocks != "none":
        return f"{vlm.family.name}'s {vlm.family.blocks} see themselves in both directions, which its kernel can't mask"
    try:
        varlen_kernel()
    except UserError as error:
        return error.message
    return ""


def kernel_problem(backend: AttentionBackend, vlm: VLM) -> str:
    """The problem of a back end's kernel on this machine, for heads like this model's, or an empty text."""
    text = vlm.config.get_text_config()
    heads = int(text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    groups = int(getattr(text, "num_key_value_heads", None) or heads)
    try:
        worst = kernel_error(backend, heads=heads, groups=groups, size=size, device=vlm.device, dtype=vlm.dtype)
    except Exception as error:  # whatever a kernel raises that this machine can't run
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not worst <= _TOLERANCE[vlm.dtype]:
        return f"its kernel is off by {worst:.2g} of what plain attention gives"
    return ""


def kernel_error(
    backend: AttentionBackend, *, heads: int, groups: int, size: int, device: torch.device | str, dtype: torch.dtype
) -> float:
    """The largest relative error of a back end against plain calls, over output and gradients (recomputed, as
    checkpointing does), with and without a sliding window, on a small tree of several levels and random numbers."""
    tree = [
        Segment(range(150)),
        Segment(range(40), 0),
        Segment(range(17), 0, scored=True),
        Segment(range(30), 1, scored=True),
        Segment(range(21), 1, scored=True),
    ]
    draw = torch.Generator().manual_seed(0)
    length = sum(len(segment.ids) for segment in tree)
    tensors = [torch.randn(1, count, length, size, generator=draw) for count in (heads, groups, groups)]
    wanted = torch.randn(1, length, heads, size, generator=draw).to(device, dtype)
    worst = 0.0
    for window in (None, 60):
        found: list[list[torch.Tensor]] = []
        for each in (backend, "plain"):
            plan = pack([tree], rules=AttentionRules(window=window), backend=each).plan
            assert plan is not None
            inputs = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
            call = partial(tree_attention, torch.nn.Identity(), tree_plan=plan.to(device), sliding_window=window)
            out, _ = checkpoint(call, *inputs, None, use_reentrant=False)
            found.append([out.detach(), *torch.autograd.grad((out * wanted).sum(), inputs)])
        worst = max(worst, *(((a - b).float().norm() / b.float().norm()).item() for a, b in zip(*found, strict=True)))
    return worst
