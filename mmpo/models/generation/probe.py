"""Watching where a model looks while it writes: attention of the response's rows onto image tokens, from generation.

    spec = ProbeSpec(layers=(16,))
    for seen in engine.watched(prompts, spec):   # AnswerEngine
        seen.attention[layer, image token]       # mean over the response's rows

Only chosen layers are watched, and of each step only one query row a response: its scores against the keys that are
cached anyway, normalized by the log-sum-exp over all keys. Everything else of the model keeps its fast kernels, and no
[tokens, tokens] matrix exists. Prompts that share their prefix are watched inside `SharedCache`; families that can't
share, inside the model's own `generate` (`watching`).

Legend: n rows, t tokens, a attention heads, c image tokens of a prompt, l watched layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mmpo.errors import UserError
from mmpo.models.crossing import moved, placed
from mmpo.models.families.loading import VLM
from mmpo.models.generation.choosing import Chooser
from mmpo.models.generation.shared_cache import wide_scores
from mmpo.models.tree.attention import tree_attention

PROBING = "mmpo_probe"


@dataclass(frozen=True)
class ProbeSpec:
    """Attention to read. `layers`: numbers of decoder layers, from 0; empty for the middle one (16 of 32, as MIA-DPO's
    released code). `heads`: query heads, empty for all. `reduce`: how the heads' attention becomes one. `predictive`:
    also the last row of the prompt, which predicts the first token of the response."""

    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    reduce: Literal["mean", "max"] = "mean"
    predictive: bool = False

    def resolved(self, vlm: VLM) -> ProbeSpec:
        """With layers by number. Raises UserError for layers or heads that the model doesn't have."""
        config = vlm.config.get_text_config()
        layers = self.layers or (config.num_hidden_layers // 2,)
        for name, given, there in (
            ("layer", layers, config.num_hidden_layers),
            ("head", self.heads, config.num_attention_heads),
        ):
            if wrong := [number for number in given if not 0 <= number < there]:
                raise UserError(f"{vlm.source} has no {name} {wrong[0]}", hint=f"0 to {there - 1}")
        return ProbeSpec(tuple(layers), self.heads, self.reduce, self.predictive)

    def reduced(self, weights: Tensor) -> Tensor:
        """[n, a, c] to [n, c]."""
        if self.heads:
            weights = weights[:, list(self.heads)]
        return weights.amax(1) if self.reduce == "max" else weights.mean(1)


class AttentionSums:
    """Sums over query rows of each prompt's attention onto its image tokens. `spec` is a resolved one; `columns` are
    the places of the image tokens in each prompt, `last` the last of each (-1 without any)."""

    def __init__(self, spec: ProbeSpec, columns: Sequence[Sequence[int]], device: torch.device) -> None:
        self.spec = spec
        self.sizes = [len(places) for places in columns]
        width = max([1, *self.sizes])
        self.columns = torch.full((len(columns), width), -1)
        for row, places in enumerate(columns):
            self.columns[row, : len(places)] = torch.tensor(places, dtype=torch.long)
        self.columns = moved(self.columns, device)
        self.last = [max(places, default=-1) for places in columns]
        self.sums = torch.zeros(len(spec.layers), len(columns), width, device=device)
        self.steps = [[0] * len(columns) for _ in spec.layers]
        self._place = {layer: place for place, layer in enumerate(spec.layers)}

    def wants(self, layer: int) -> bool:
        return layer in self._place

    def add(self, layer: int, rows: Sequence[int], weights: Tensor, first: Tensor | int, counts: bool = True) -> None:
        """Add the attention weights [n, a, keys] of one query row for each of `rows`. `first` [n] (or one number) is
        the place in the prompt of the first key; keys outside of it are none. `counts` False for a second part of the
        same query rows' keys."""
        place = self._place[layer]
        index = placed(rows, self.sums.device)
        wanted = self.columns[index]
        at = wanted - (first[:, None] if isinstance(first, Tensor) else first)
        inside = (wanted >= 0) & (at >= 0) & (at < weights.shape[-1])
        taken = weights.gather(2, at.clamp(0, weights.shape[-1] - 1)[:, None].expand(-1, weights.shape[1], -1))
        if weights.shape[-1]:
            self.sums[place].index_add_(0, index, self.spec.reduced(taken * inside[:, None]).to(self.sums.dtype))
        if counts:
            for row in rows:
                self.steps[place][row] += 1

    def mean(self, row: int, steps: int) -> Tensor | None:
        """[l, c] the mean over `steps` query rows of a prompt, None without any. Raises UserError where the model's
        attention was not seen."""
        if any(seen[row] != steps for seen in self.steps):
            raise UserError(
                "the model's attention can't be watched: it doesn't go through transformers' attention interface"
            )
        return self._read[:, row, : self.sizes[row]] / steps if steps else None

    @cached_property
    def _read(self) -> Tensor:
        """All sums on the host: one look at the device for all rows."""
        return self.sums.cpu()


def query_rows(spec: ProbeSpec, tokens: int) -> int:
    """The number of recorded rows of a response of `tokens` tokens: all but the last token's, which is never fed, and
    with `predictive` the last row of the prompt."""
    return max(0, tokens - 1) + int(spec.predictive)


def image_columns(vlm: VLM, prompt: Sequence[int]) -> list[int]:
    """The places of image tokens in a prompt; separators between them (tile names, row ends) are none."""
    return [place for place, token in enumerate(prompt) if token == vlm.image_token_id]


class Confidence:
    """A chooser that also notes the largest log-probability of every step, for MIA-DPO's perplexity."""

    def __init__(self, inner: Chooser, rows: int) -> None:
        self.inner = inner
        self._rows = rows
        self._steps: list[tuple[Sequence[int], Tensor]] = []

    def scores(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        scores = self.inner.scores(logits, rows)
        self._steps.append((list(rows), scores.amax(-1) - scores.logsumexp(-1)))
        return scores

    @cached_property
    def top(self) -> list[list[float]]:
        """By row, once all steps are done: the device is looked at once."""
        found: list[list[float]] = [[] for _ in range(self._rows)]
        numbers = (row for rows, _ in self._steps for row in rows)
        for row, value in zip(numbers, torch.cat([best for _, best in self._steps]).tolist(), strict=True):
            found[row].append(value)
        return found

    def alone(self, row: int) -> Confidence:
        return Confidence(self.inner.alone(row), 1)


@dataclass
class _Watch:
    """One prompt that is being continued alone; `passes` counts forward passes by layer."""

    sums: AttentionSums
    prompt_length: int
    passes: dict[int, int]


_current: _Watch | None = None


@contextmanager
def watching(vlm: VLM, sums: AttentionSums, prompt_length: int) -> Iterator[None]:
    """Within the block the language model's own attention reports to `sums` (of one prompt, generated alone)."""
    global _current
    config = vlm.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = PROBING
    _current = _Watch(sums, prompt_length, dict.fromkeys(sums.spec.layers, 0))
    try:
        yield
    finally:
        config._attn_implementation = before
        _current = None


def last_row_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> Tensor:
    """Attention weights of the last query row, [1, a, keys] fp32. query [1, a, t, d], key [1, g, keys, d];
    `mask` as SDPA takes it, or None."""
    heads, kv_heads = query.shape[1], key.shape[1]
    grouped = query[:, :, -1].unflatten(1, (kv_heads, heads // kv_heads))  # [1, g, r, d]
    scores = (wide_scores(grouped, key) * scale).flatten(1, 2)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        row = mask[:, :, -1, : key.shape[2]]
        scores = scores.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else scores + row.float()
    return scores.softmax(-1)


def _probing(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The fast attention, and in watched layers the weights of its last query row."""
    layer = getattr(module, "layer_idx", None)
    watch = _current
    if watch is not None and isinstance(layer, int) and layer in watch.passes:
        number = watch.passes[layer]  # 0: the prompt; k: the step that feeds the response's token k
        watch.passes[layer] += 1
        if number or watch.sums.spec.predictive:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            weights = last_row_weights(query, key, attention_mask, scale, options.get("softcap"))
            forgotten = watch.prompt_length + number - key.shape[2]  # by a layer with a sliding window
            watch.sums.add(layer, [0], weights, max(0, forgotten))
    return tree_attention(module, query, key, value, attention_mask, scaling=scaling, **options)


AttentionInterface.register(PROBING, _probing)
ALL_MASK_ATTENTION_FUNCTIONS.register(PROBING, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
