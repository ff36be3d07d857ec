"""Two kernels that attend over a whole packed row of trees at once: FlexAttention and variable-length FlashAttention.

Each gets the trees in its own form. FlexAttention asks, pair by pair, whether a token sees another: with
whole subtrees contiguous in the row, token k is seen by exactly the tokens from k to the end of its segment's subtree,
so three numbers a token say it all (`Marks`). FlashAttention takes sequences: a segment's queries against the keys of
its path, gathered one after another, causal and aligned at the last key (`Sequences`); Wang & Hegde 2024
(arXiv:2410.20305) describe the first for pairs, flash-preference the second.

Which one runs is decided in `mmpo.models.tree.backends`.

Shapes: a attention heads, g key-value heads, s row tokens, d head size, n sequences, m gathered keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmpo.errors import UserError

FLEX_BLOCK = 128
"""FlexAttention's blocks; rows are padded to a multiple, as its backward kernel wants."""


@dataclass
class Marks:
    """Visibility between tokens, as numbers of each row token [s], int32.

    Row token k is seen by the tokens q with k <= q < `reach[k]`. `place` counts along a token's path. Tokens of one
    block see each other in both directions: `block` is the row index of the block's first token, -1 outside of blocks.
    In layers with a sliding window a token sees only what is less than `window` places before it; `window_cuts_blocks`
    says whether that goes for blocks too."""

    reach: Tensor
    place: Tensor
    block: Tensor
    window: int | None = None
    window_cuts_blocks: bool = False
    _masks: dict[tuple[bool, torch.device], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def join(cls, parts: Sequence[Marks]) -> Marks:
        """The marks of trees that stand one after another."""
        starts = [0]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part.reach))
        pairs = list(zip(parts, starts, strict=True))
        return replace(
            parts[0],
            reach=torch.cat([part.reach + start for part, start in pairs]),
            place=torch.cat([part.place for part in parts]),
            block=torch.cat([torch.where(part.block >= 0, part.block + start, -1) for part, start in pairs]),
            _masks={},
        )

    def padded(self, length: int) -> Marks:
        """With tokens at the end that see themselves and nothing else."""
        more = torch.arange(len(self.reach), length, dtype=torch.int32, device=self.reach.device)
        return replace(
            self,
            reach=torch.cat([self.reach, more + 1]),
            place=torch.cat([self.place, torch.zeros_like(more)]),
            block=torch.cat([self.block, torch.full_like(more, -1)]),
            _masks={},
        )

    def visible(self, *, windowed: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """FlexAttention's question, as a function of batch, head, query and key."""
        reach, place, block = self.reach, self.place, self.block
        window = self.window or 0  # called only where there is one
        in_blocks = bool((block >= 0).any())

        def below(q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q < reach[k])

        def same_block(q: Tensor, k: Tensor) -> Tensor:
            return (block[q] == block[k]) & (block[q] >= 0)

        def near(q: Tensor, k: Tensor) -> Tensor:
            return place[k] > place[q] - window

        def ask(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if not in_blocks:
                return below(q, k) & near(q, k) if windowed else below(q, k)
            if not windowed:
                return below(q, k) | same_block(q, k)
            if self.window_cuts_blocks:
                return (below(q, k) | same_block(q, k)) & near(q, k)
            return (below(q, k) & near(q, k)) | same_block(q, k)

        return ask

    def block_mask(self, *, windowed: bool, device: torch.device) -> Any:
        """FlexAttention's mask of the padded row, built once and used by all layers."""
        from torch.nn.attention.flex_attention import create_block_mask

        key = (windowed, device)
        if key not in self._masks:
            length = -(-len(self.reach) // FLEX_BLOCK) * FLEX_BLOCK
            ask = self.padded(length).to(device).visible(windowed=windowed)
            self._masks[key] = create_block_mask(ask, None, None, length, length, device=str(device))
        return self._masks[key]

    def to(self, device: torch.device | str) -> Marks:
        moved = {name: getattr(self, name).to(device) for name in ("reach", "place", "block")}
        return replace(self, **moved, _masks={})


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    marks: Marks,
    *,
    windowed: bool = False,
    scale: float | None = None,
) -> Tensor:
    """query [1, a, s, d], key and value [1, g, s, d] -> [1, s, a, d]."""
    length = query.shape[2]
    missing = -length % FLEX_BLOCK
    padded = [F.pad(tensor, (0, 0, 0, missing)) for tensor in (query, key, value)]
    out = _flex(query.device.type)(
        *padded,
        block_mask=marks.block_mask(windowed=windowed, device=query.device),
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out[:, :, :length].transpose(1, 2)


@cache
def _flex(device: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention as call

    # Rows differ in length: compiled again for each, a batch would take many seconds.
    return cast(Callable[..., Tensor], torch.compile(call, dynamic=True) if device == "cuda" else call)


@dataclass
class Sequences:
    """A row of trees as `n` sequences: sequence i has the row's queries `first_query[i]` to `first_query[i + 1]`, and
    the keys at the row places `key_index[first_key[i] : first_key[i + 1]]`; both firsts [n + 1] int32, `key_index` [m].
    `most_queries` and `most_keys` are the longest's."""

    first_query: Tensor
    first_key: Tensor
    key_index: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> Sequences:
        """From each sequence's number of queries, in row order, and the row ranges of its keys."""
        queries = [count for count, _ in parts]
        places = [torch.cat([torch.arange(start, end) for start, end in ranges]) for _, ranges in parts]
        keys = [len(place) for place in places]
        first_query, first_key = (torch.tensor([0, *counts]).cumsum(0).to(torch.int32) for counts in (queries, keys))
        return cls(first_query, first_key, torch.cat(places), max(queries), max(keys))

    def to(self, device: torch.device | str) -> Sequences:
        moved = {name: getattr(self, name).to(device) for name in ("first_query", "first_key", "key_index")}
        return replace(self, **moved)


VarlenKernel = Callable[..., Tensor]
"""(query [s, a, d], key, value [m, g, d], first_query, first_key, most_queries, most_keys, scale, left) -> [s, a, d]:
causal, aligned at the last key; `left` keys before a query's own are seen, -1 for all."""


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    *,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """query [1, a, s, d], key and value [1, g, s, d] -> [1, s, a, d], in one call. `window` counts the token itself."""
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    k, v = k.index_select(0, sequences.key_index), v.index_select(0, sequences.key_index)
    firsts = (sequences.first_query, sequences.first_key, sequences.most_queries, sequences.most_keys)
    left = -1 if window is None else window - 1
    return varlen_kernel()(q.contiguous(), k, v, *firsts, scale, left)[None]


@cache
def varlen_kernel() -> VarlenKernel:
    """PyTorch's own, else that of the package flash-attn. Raises `UserError` where there is neither."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        known: set[str] = set()
    else:
        known = set(inspect.signature(varlen_attn).parameters)
    if {"window_size", "enable_gqa", "scale"} <= known:

        def own(
            q: Tensor, k: Tensor, v: Tensor, fq: Tensor, fk: Tensor, mq: int, mk: int, scale: float | None, left: int
        ) -> Tensor:
            grouped = q.shape[1] != k.shape[1]
            out = varlen_attn(q, k, v, fq, fk, mq, mk, scale=scale, window_size=(left, 0), enable_gqa=grouped)
            assert isinstance(out, Tensor)
            return out

        return own
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise UserError(
            "no variable-length attention: this torch has none with windows, and flash-attn is not installed",
            hint="update torch, or leave attention out",
        ) from error

    def package(
        q: Tensor, k: Tensor, v: Tensor, fq: Tensor, fk: Tensor, mq: int, mk: int, scale: float | None, left: int
    ) -> Tensor:
        out: Tensor = flash_attn_varlen_func(
            q, k, v, fq, fk, mq, mk, softmax_scale=scale, causal=True, window_size=(left, -1 if left < 0 else 0)
        )
        return out

    return package
