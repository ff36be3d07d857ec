"""Attention over trees of segments, as ordinary SDPA calls.

`tree_attention` is registered with transformers' `AttentionInterface` under the name "mmpo_tree". Given a `TreePlan`
it makes a few calls per tree: the spine (root and its chain of first children) is plain causal attention; every other
group of segments attends to its own path. A preference pair takes two calls. No dense mask over the row, no extra
package, exact, differentiable, and the plan travels as a keyword argument, so checkpointing recomputes with the same
one. Without a plan it is the stock SDPA function.

Families whose images or prompts see themselves in both directions, and layers with a sliding window that is shorter
than a path, get masks on the same calls (`mmpo.models.tree.segments`); a layer passes its window itself.

A plan may instead ask for one call of another kernel (`mmpo.models.tree.kernels`); which one is chosen in
`mmpo.models.tree.backends`.

`dense_attention_mask` builds the equivalent full mask: the reference in tests.

Shapes: a attention heads, g key-value heads, s row tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mmpo.errors import UserError
from mmpo.models.crossing import moved
from mmpo.models.scoring.last_layer import rows_read
from mmpo.models.scoring.lean import made_again
from mmpo.models.tree.kernels import Marks, Sequences, flex_attention, varlen_attention

TREE_ATTENTION = "mmpo_tree"


@dataclass
class CallPlan:
    """One SDPA call: the next `queries` rows against the keys in `ranges` (of this tree's row).

    Empty `ranges`: the spine, over its own tokens. `mask` None: causal, aligned to the last key; else an additive
    float mask [queries, width]. `near` replaces it in layers with a sliding window; None where the window cuts
    nothing."""

    queries: int
    ranges: Sequence[tuple[int, int]] = ()
    mask: Tensor | None = None
    width: int = 0
    near: Tensor | None = None

    @property
    def in_place(self) -> bool:
        """True if keys are better read where they are, with the gaps masked, than copied together."""
        return bool(self.ranges) and 5 * self.width >= 4 * self.ranges[-1][1]


@dataclass
class TreePlan:
    """The calls of every tree of a packed row; `lengths` are the trees' token counts, `longest` is the longest path,
    `window` the sliding window that the calls' `near` masks are made for. With `marks` the row goes through
    FlexAttention instead, with `sequences` through a variable-length kernel; `calls` is then empty. `read` are the
    rows whose last hidden states are read (None: all): scored tokens and what predicts them; `unread` says how
    many of each tree's first rows are not."""

    lengths: list[int]
    calls: list[list[CallPlan]]
    longest: int = 0
    window: int | None = None
    marks: Marks | None = None
    sequences: Sequences | None = None
    read: Tensor | None = None
    unread: list[int] = field(default_factory=list)
    _masks: dict[tuple[int, int, bool, int, bool, torch.dtype, torch.device], Tensor] = field(
        default_factory=dict, repr=False
    )

    def to(self, device: torch.device | str) -> TreePlan:
        for calls in self.calls:
            for call in calls:
                call.mask = moved(call.mask, device) if call.mask is not None else None
                call.near = moved(call.near, device) if call.near is not None else None
        self.marks = self.marks.to(device) if self.marks is not None else None
        self.sequences = self.sequences.to(device) if self.sequences is not None else None
        self.read = moved(self.read, device) if self.read is not None else None
        return self

    def cuts(self, window: int | None) -> bool:
        """True if a layer's sliding window hides anything. Raises `UserError` for one that the plan wasn't made for."""
        if window is None or window >= self.longest:
            return False
        if window != self.window:
            raise UserError(
                f"a layer attends through a window of {window} tokens, but the layout was made for {self.window}",
                hint="set sharing to off for this model",
            )
        return True

    @property
    def query_splits(self) -> list[int]:
        return [call.queries for calls in self.calls for call in calls]

    def mask(
        self, tree: int, number: int, like: Tensor, *, near: bool = False, skip: int = 0, in_place: bool = False
    ) -> Tensor:
        """The additive mask of one call, without its first `skip` queries, in the dtype and on the device of `like`;
        `in_place` over the row's keys up to the last of its ranges. Built once and used by all layers."""
        key = (tree, number, near, skip, in_place, like.dtype, like.device)
        if key not in self._masks:
            call = self.calls[tree][number]
            mask = call.near if near else call.mask
            width = call.width or call.queries
            if mask is None:
                mask = torch.full((call.queries - skip, width), float("-inf")).triu(width - call.queries + skip + 1)
            else:
                mask = mask[skip:]
            if in_place:
                parts = mask.split([last - first for first, last in call.ranges], dim=1)
                mask = mask.new_full((len(mask), call.ranges[-1][1]), float("-inf"))
                for (first, last), part in zip(call.ranges, parts, strict=True):
                    mask[:, first:last] = part
            self._masks[key] = moved(mask, like.device).to(like.dtype)
        return self._masks[key]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    tree_plan: TreePlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, a, s, d], key and value [1, g, s, d] -> output [1, s, a, d], None (no attention weights)."""
    attend = F.scaled_dot_product_attention if softcap is None else partial(capped_attention, softcap=softcap)
    if tree_plan is None:
        if softcap is not None:
            causal = attention_mask is None and query.shape[2] > 1 and is_causal is not False
            out = attend(
                query, key, value, attn_mask=attention_mask, is_causal=causal, dropout_p=dropout, scale=scaling
            )
            return out.transpose(1, 2), None
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    if odd := [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise UserError(f"attention with {odd[0]} can't share prefixes", hint="set sharing to off for this model")
    windowed = tree_plan.cuts(sliding_window)
    if tree_plan.marks is not None:
        return flex_attention(query, key, value, tree_plan.marks, windowed=windowed, scale=scaling), None
    if tree_plan.sequences is not None:
        window = sliding_window if windowed else None
        return varlen_attention(query, key, value, tree_plan.sequences, window=window, scale=scaling), None
    shared_heads = key.shape[1] != query.shape[1]
    # On the CPU the flash kernel takes grouped heads as they are; on CUDA a mask would push them to the slow kernel.
    if shared_heads and query.is_cuda:
        repeats = query.shape[1] // key.shape[1]
        key, value, shared_heads = repeat_kv(key, repeats), repeat_kv(value, repeats), False
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": shared_heads}
    queries = iter(query.split(tree_plan.query_splits, dim=2))
    pruned = rows_read(module) is not None
    outputs = []
    for tree, (tree_key, tree_value) in enumerate(
        zip(key.split(tree_plan.lengths, dim=2), value.split(tree_plan.lengths, dim=2), strict=True)
    ):
        for number, call in enumerate(tree_plan.calls[tree]):
            q = next(queries)
            skip = min(tree_plan.unread[tree], call.queries - 1) if pruned and number == 0 else 0
            q = q[:, :, skip:]
            near = windowed and call.near is not None
            plain = call.mask is None and not near
            in_place = call.in_place and not query.is_cuda  # there, without a mask, the quick kernel is worth a copy
            copied = len(call.ranges) > 1 and not in_place
            if copied:
                k, v = _gather(tree_key, call.ranges), _gather(tree_value, call.ranges)
            else:
                end = call.ranges[-1][1] if call.ranges else call.queries  # a path begins with the root, at 0
                k, v = tree_key[:, :, :end], tree_value[:, :, :end]
            if plain and not call.ranges and not skip:
                out = attend(q, k, v, is_causal=True, **options)
            else:
                if plain and query.is_cuda and softcap is None:
                    bias: Tensor = causal_lower_right(q.shape[2], k.shape[2])
                else:
                    bias = tree_plan.mask(tree, number, q, near=near, skip=skip, in_place=in_place)
                again = partial(_copied, tree_key.detach(), tree_value.detach(), call.ranges)
                with made_again([k, v], again) if copied else nullcontext():
                    out = attend(q, k, v, attn_mask=bias, **options)
            if skip:
                outputs.append(out.new_zeros(out.shape[0], skip, out.shape[1], out.shape[3]))
            outputs.append(out.transpose(1, 2))
    return (outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs, dim=1)), None


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    softcap: float,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    enable_gqa: bool = True,
) -> Tensor:
    """SDPA with scores x bent to `c tanh(x / c)` (Gemma 2), which no SDPA kernel does; softmax in float32.

    Shapes and arguments as in SDPA; key and value may have fewer heads than query."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = torch.tanh(scores / softcap) * softcap
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout_p, training=dropout_p > 0)
    return weights @ value


def dense_attention_mask(allowed: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """One additive mask [1, 1, s, s] for packed trees, from each tree's visibility [s_i, s_i]: the slow, obvious
    way.
    """
    block = torch.block_diag(*[tree.to(torch.float32) for tree in allowed]).bool()
    return torch.where(block, 0.0, torch.finfo(dtype).min).to(dtype)[None, None]


def use_tree_attention(model: PreTrainedModel) -> None:
    """Switch the language model to the tree attention; the vision tower keeps its own.

    The switch is permanent because checkpointing looks the function up again during backward. Without a plan (in
    generation, for instance) the model behaves as with plain SDPA."""
    model.set_attn_implementation({"text_config": TREE_ATTENTION})


def _gather(tensor: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([tensor[:, :, start:end] for start, end in ranges], dim=2)


def _copied(key: Tensor, value: Tensor, ranges: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [_gather(key, ranges), _gather(value, ranges)]


AttentionInterface.register(TREE_ATTENTION, tree_attention)
# Registered for masks too, so that calls without a plan get exactly the masks that SDPA would get.
ALL_MASK_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
