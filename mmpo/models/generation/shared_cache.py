"""Attention for generation from shared prefixes: a prefix's keys and values exist once, however many rows continue it.

Legend: g prefixes, n rows, t tokens of a pass, w width of a rectangle, p prefix length, l row length, k key-value
heads, r query heads per key-value head, d head size.

All tokens of a pass travel as one flat stream `[1, t, hidden]`, so the model's matrix products see no padding. Only
attention needs rectangles. Each query attends to its prefix (unmasked: one call for all rows of a prefix) and to its
own row (causal); the two results are combined exactly through their log-sum-exps, `softmax([a, b]) = w·softmax(a) +
(1-w)·softmax(b)` with `w = sigmoid(lse_a - lse_b)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from mmpo.models.crossing import moved, placed

if TYPE_CHECKING:
    from mmpo.models.generation.probe import AttentionSums

ATTENTION_NAME = "mmpo_shared_prefix"
_GROWTH = 32  # columns by which a row cache grows at least


class PrefixStored(Exception):
    """Ends the forward of the prefixes: the last layer's keys are stored, and the rest of its computation is not
    needed."""


class SharingUnsupported(Exception):
    """The model's attention does something that shared prefixes can't reproduce; the text says what."""


class Grid:
    """Consecutive runs of a flat token stream as the lines of a rectangle, aligned at its right edge."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.height, self.width = len(self.lengths), max(self.lengths)
        self.gather: Tensor | None = None
        self.scatter: Tensor | None = None
        if min(self.lengths) < self.width:
            length = torch.tensor(self.lengths)
            start = length.cumsum(0) - length
            column = torch.arange(self.width) - (self.width - length)[:, None]  # [height, width], negative: padding
            real = column >= 0
            self.gather = moved(torch.where(real, start[:, None] + column, 0).flatten(), device)
            self.scatter = moved(real.flatten().nonzero().squeeze(1), device)

    def spread(self, x: Tensor) -> Tensor:
        """[t, heads, d] to [height, heads, width, d]; padding repeats some token and has to be masked."""
        if self.gather is not None:
            x = x.index_select(0, self.gather)
        return x.unflatten(0, (self.height, self.width)).transpose(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """[height, width, …] to [t, …]: the inverse, without padding."""
        x = x.flatten(0, 1)
        return x if self.scatter is None else x.index_select(0, self.scatter)

    def valid(self, device: torch.device) -> Tensor | None:
        """[height, width] bool, False at padding; None where there is none."""
        if self.gather is None:
            return None
        return torch.arange(self.width, device=device) >= self.width - placed(self.lengths, device)[:, None]


def partial_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax attention over one part of the keys, with what is needed to combine parts.

    q [b, k·r, w, d], k and v [b, k, l, d], bias broadcastable to [b, 1, w, l], added to the scores. Returns the output
    [b, w, k·r, d] and the log-sum-exp of the scores [b, w, k·r] in fp32.
    """
    heads, w = q.shape[1:3]
    kv_heads = k.shape[1]
    groups = heads // kv_heads
    if groups > 1:  # the queries that share a key-value head become rows of one matrix: no key is ever repeated
        q = q.unflatten(1, (kv_heads, groups)).flatten(2, 3)
        if bias is not None and bias.shape[-2] > 1:
            bias = bias.repeat(1, 1, groups, 1)
    fused = q.device.type == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    attend = _fused_cpu if fused else _explicit
    out, lse = attend(q, k, v, scale, bias)
    if groups > 1:
        out, lse = out.unflatten(2, (groups, w)).flatten(1, 2), lse.unflatten(2, (groups, w)).flatten(1, 2)
    return out.transpose(1, 2), lse.transpose(1, 2)


def _fused_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The kernel of `scaled_dot_product_attention` on CPUs, by its own name because only that returns the LSE."""
    if bias is not None:
        bias = bias.to(q.dtype).expand(q.shape[0], 1, q.shape[2], k.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = kernel(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    return out, lse


def _explicit(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Plain matrix products with fp32 scores, for every other device."""
    scores = wide_scores(q, k) * scale
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(-1).to(v.dtype), v), scores.logsumexp(-1)


def wide_scores(q: Tensor, k: Tensor) -> Tensor:
    """q [b, k, w, d] times k [b, k, l, d] transposed, [b, k, w, l] in fp32 (fp64 of fp64). Products of 16-bit numbers
    are summed in fp32 by the device itself: a wide copy of the keys, each layer and step, is made only where it
    can't."""
    if q.dtype.itemsize < 4 and q.device.type != "cpu" and hasattr(torch.ops.aten.bmm, "dtype"):
        flat = (q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2))
        return torch.bmm(*flat, out_dtype=torch.float32).unflatten(0, q.shape[:2])
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.to(wide) @ k.to(wide).transpose(-1, -2)


class SharedCache:
    """Keys and values, per layer: `g` prefixes once each, and the tokens of `n` rows that continue them.

    Use: `begin_prefixes(lengths, layers)`, forward (it ends with `PrefixStored`); `begin_rows(rows_per_prefix,
    lengths)`, forward; then `begin_step()`, forward, … with `keep(rows)` between steps to drop finished rows. Each
    forward passes `shared_cache=self` to the model. `sums` gets the rows' attention onto image tokens.
    """

    def __init__(self, device: torch.device, longest: float = float("inf"), sums: AttentionSums | None = None) -> None:
        self.device = device
        self.sums = sums
        self._counted: Sequence[int] = ()  # places of the rows whose attention counts in this pass
        self._numbers: list[int] = []  # the number of each row that is still here
        self._own: list[tuple[int, int]] = []  # by number: length of the prefix, and of the row's own tokens
        self._prefix_lengths: list[int] = []
        self.longest = longest  # no row will have more tokens, prompt included: longer windows cut nothing
        self._last_layer = -1
        self._prefix: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self._prefix_bias: Tensor | None = None
        self._row_valid: Tensor | None = None  # [n, l of the first pass]
        self._row_bias: Tensor | None = None
        self._rows_per_prefix: list[int] = []
        self._by_prefix: Grid | None = None
        self._by_row: Grid | None = None
        self._used = 0  # filled columns of the row cache before this pass
        self._new = 0  # columns that this pass adds

    def begin_prefixes(self, lengths: Sequence[int], layers: int) -> None:
        """The next forward is `[g, p]` prefix tokens, padded on the right, through a model of `layers` layers."""
        self._by_prefix = self._by_row = None
        self._prefix_lengths = list(lengths)
        self._last_layer = layers - 1
        self._prefix_bias = None
        if min(lengths) < max(lengths):
            filled = torch.arange(max(lengths), device=self.device) < placed(lengths, self.device)[:, None]
            self._prefix_bias = _bias(filled)[:, None, None, :]

    def begin_rows(self, rows_per_prefix: Sequence[int], lengths: Sequence[int]) -> None:
        """The next forward is the flat stream of the rows' own tokens, ordered by prefix, `lengths[n]` of row n."""
        self._rows_per_prefix = list(rows_per_prefix)
        self._rows.clear()
        self._by_row = Grid(lengths, self.device)
        prefixes = [p for p, count in zip(self._prefix_lengths, rows_per_prefix, strict=True) for _ in range(count)]
        self._own = list(zip(prefixes, lengths, strict=True))
        self._numbers = list(range(len(lengths)))
        self._counted = self._numbers
        remaining = iter(lengths)
        self._by_prefix = Grid([sum(islice(remaining, count)) for count in rows_per_prefix], self.device)
        self._used, self._new = 0, self._by_row.width
        self._row_valid = self._by_row.valid(self.device)
        width = self._by_row.width
        seen = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()[None]
        if self._row_valid is not None:
            itself = torch.eye(width, dtype=torch.bool, device=self.device)  # for padding: a softmax needs something
            seen = seen & (self._row_valid[:, None, :] | itself)
        self._row_bias = _bias(seen)[:, None] if width > 1 else None

    def begin_step(self, counted: Sequence[int] | None = None) -> None:
        """The next forward is one more token of every row. `counted`: places of the rows that are not finished."""
        n = sum(self._rows_per_prefix)
        self._counted = range(n) if counted is None else counted
        if self._by_row is None or self._by_row.width > 1 or self._by_row.height != n:
            self._by_row = Grid([1] * n, self.device)
            self._by_prefix = Grid(self._rows_per_prefix, self.device)
        self._used, self._new = self._used + self._new, 1
        self._row_bias = None
        if self._row_valid is not None:
            later = self._row_valid.new_ones(n, self._used + 1 - self._row_valid.shape[1])
            self._row_bias = _bias(torch.cat([self._row_valid, later], 1))[:, None, None, :]

    def keep(self, rows: Sequence[int]) -> None:
        """Forget every row but `rows` (ascending); prefixes without rows go once they are half of all."""
        owner = [g for g, count in enumerate(self._rows_per_prefix) for _ in range(count)]
        counts = [0] * len(self._rows_per_prefix)
        for row in rows:
            counts[owner[row]] += 1
        self._numbers = [self._numbers[row] for row in rows]
        index = placed(rows, self.device)
        for layer, (k, v) in self._rows.items():
            self._rows[layer] = (k[index], v[index])
        if self._row_valid is not None:
            self._row_valid = self._row_valid[index]
        live = [g for g, count in enumerate(counts) if count]
        if 2 * len(live) <= len(counts):
            chosen = placed(live, self.device)
            for layer, (k, v) in self._prefix.items():
                self._prefix[layer] = (k[chosen], v[chosen])
            if self._prefix_bias is not None:
                self._prefix_bias = self._prefix_bias[chosen]
            counts = [counts[g] for g in live]
        self._rows_per_prefix = counts
        self._by_row = self._by_prefix = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of one layer. q [b, k·r, t, d], k and v [b, k, t, d]; returns [b, t, k·r, d]."""
        if self._by_prefix is None or self._by_row is None:
            self._prefix[layer] = (k, v)
            if layer == self._last_layer:
                raise PrefixStored
            out = F.scaled_dot_product_attention(q, _repeat(k, q), _repeat(v, q), is_causal=True, scale=scale)
            return out.transpose(1, 2)
        by_prefix, by_row = self._by_prefix, self._by_row
        query, key, value = (x[0].transpose(0, 1) for x in (q, k, v))
        prefix_k, prefix_v = self._prefix[layer]
        from_prefix, prefix_lse = partial_attention(
            by_prefix.spread(query), prefix_k, prefix_v, scale, self._prefix_bias
        )
        row_k, row_v = self._append(layer, by_row.spread(key), by_row.spread(value))
        from_row, row_lse = partial_attention(by_row.spread(query), row_k, row_v, scale, self._row_bias)
        prefix_lse, row_lse = by_prefix.collect(prefix_lse), by_row.collect(row_lse)
        if self.sums is not None and self.sums.wants(layer):
            self._watch(layer, query, torch.logaddexp(prefix_lse, row_lse), row_k, scale)
        weight = torch.sigmoid(prefix_lse - row_lse).unsqueeze(-1)
        out = torch.lerp(by_row.collect(from_row).float(), by_prefix.collect(from_prefix).float(), weight)
        return out.to(q.dtype)[None]

    def _watch(self, layer: int, query: Tensor, lse: Tensor, row_k: Tensor, scale: float) -> None:
        """Report the attention of each counted row's last token onto the prompt: query [t, k·r, d], `lse` [t, k·r] over
        everything the token sees, row_k [n, k, l, d]. In the first pass that token is the last of the prompt."""
        assert self.sums is not None and self._by_row is not None
        if self._used == 0 and not self.sums.spec.predictive:
            return
        last = placed(self._by_row.lengths, self.device).cumsum(0) - 1
        query, lse = query[last], lse[last, :, None]
        groups = query.shape[1] // row_k.shape[1]
        counted = placed(list(self._counted), self.device)
        numbers = [self._numbers[place] for place in self._counted]

        grid = Grid(self._rows_per_prefix, self.device)
        spread = grid.spread(query)  # [g, k·r, w, d]
        by_head = wide_scores(spread.unflatten(1, (-1, groups)).flatten(2, 3), self._prefix[layer][0]) * scale
        scores = by_head.unflatten(2, (groups, -1)).flatten(1, 2)  # [g, k·r, w, p]
        if self._prefix_bias is not None:
            scores = scores + self._prefix_bias
        weights = (grid.collect(scores.transpose(1, 2)) - lse).exp()  # [n, k·r, p]
        self.sums.add(layer, numbers, weights[counted], 0)

        ends, lengths = zip(*(self._own[number] for number in self._numbers), strict=True)
        if all(self.sums.last[number] < end for number, end in zip(self._numbers, ends, strict=True)):
            return  # no image among the rows' own tokens
        prefix, own = placed(ends, self.device), placed(lengths, self.device)
        scores = wide_scores(query.unflatten(1, (-1, groups)), row_k) * scale  # [n, k, r, l]
        weights = (scores.flatten(1, 2) - lse).exp()
        width = row_k.shape[2]
        if self._row_valid is not None:
            weights = weights * F.pad(self._row_valid, (0, width - self._row_valid.shape[1]), value=True)[:, None]
            width = self._row_valid.shape[1]
        else:
            width = max(lengths)
        first = prefix - (width - own)
        self.sums.add(layer, numbers, weights[counted], first[counted], counts=False)

    def _append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write this pass's columns and return views of all filled ones, [n, k, l, d]."""
        end = self._used + self._new
        if layer not in self._rows:
            room = (*k.shape[:2], end + _GROWTH, k.shape[3])
            self._rows[layer] = (k.new_empty(room), v.new_empty(room))
        elif self._rows[layer][0].shape[2] < end:
            more = max(_GROWTH, self._used // 2)
            old_k, old_v = self._rows[layer]
            self._rows[layer] = (F.pad(old_k, (0, 0, 0, more)), F.pad(old_v, (0, 0, 0, more)))
        all_k, all_v = self._rows[layer]
        all_k[:, :, self._used : end] = k
        all_v[:, :, self._used : end] = v
        return all_k[:, :, :end], all_v[:, :, :end]


def _bias(visible: Tensor) -> Tensor:
    """Additive form of a boolean mask: 0 where visible, minus infinity elsewhere."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))


def _repeat(x: Tensor, q: Tensor) -> Tensor:
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    shared_cache: SharedCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers' attention layers call. Refuses options that change attention in other ways."""
    if shared_cache is None or attention_mask is not None:
        raise SharingUnsupported(
            "the model doesn't hand the shared cache to its attention layers, or brings its own mask"
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise SharingUnsupported(f"attention with {name} can't share prefixes")
    if (window := options.get("sliding_window")) is not None and window < shared_cache.longest:
        raise SharingUnsupported(f"attention with a sliding_window of {window} tokens can't share prefixes")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared_cache.attend(int(module.layer_idx), query, key, value, scale), None  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION_NAME, _attention)


@contextmanager
def shared_attention(config: Any) -> Iterator[None]:
    """Within the block the language model with this text configuration attends through `SharedCache`."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = before
