"""Hidden states of a chosen layer, read while the model runs.

Asking the model for all hidden states would keep every layer's; a hook on one layer keeps what is wanted. It works
under gradient checkpointing too: the tensor is that of the forward pass, with its graph.

Shapes: n scored tokens, s row tokens, h hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.tree.layout import TreeBatch
from mmpo.types import Hidden


class Captured:
    """The hidden states that the hook captured; `read` picks the requested ones."""

    def __init__(self, hidden: Hidden) -> None:
        self._hidden = hidden
        self.states: Tensor | None = None

    def read(self, last: Tensor, layout: TreeBatch) -> Tensor:
        """[n, h] at the scored tokens, or the whole paths of the scored segments, one after the other. `last` is the
        model's last hidden state [rows, s, h], used where no layer was hooked."""
        rows = (last if self.states is None else self.states).flatten(0, 1)
        if self._hidden.span == "response":
            return rows.index_select(0, layout.own)
        stretches = [torch.arange(start, end) for own in layout.spans for start, end in own]
        return rows.index_select(0, torch.cat(stretches).to(rows.device))


@contextmanager
def capture(vlm: VLM, hidden: Hidden | None) -> Iterator[Captured | None]:
    """Watch the layer that `hidden` names during a forward pass. Raises `UserError` for a layer the model lacks."""
    if hidden is None:
        yield None
        return
    captured = Captured(hidden)
    layer = _watched(vlm, hidden.layer)
    if layer is None:
        yield captured
        return

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.states = args[0] if args else kwargs["hidden_states"]

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def _watched(vlm: VLM, layer: int) -> nn.Module | None:
    """The decoder layer whose input is read; None for the states after the last one."""
    layers = vlm.base.get_decoder().layers
    index = layer if layer >= 0 else len(layers) + 1 + layer
    if not 0 <= index <= len(layers):
        raise UserError(
            f"the model has no hidden states after layer {layer}",
            hint=f"from 0, the embeddings, to {len(layers)}, the last; or -1, -2, … from the end",
        )
    if index == len(layers):
        return None
    if vlm.family.features == "own":
        raise UserError(f"{vlm.source}: of an unknown model only the last hidden states can be read", hint="layer: -1")
    found: nn.Module = layers[index]
    return found


def places(segments: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Indices of these scored segments' tokens among all scored tokens, in the order of `segments`."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return torch.cat([torch.arange(starts[k], starts[k] + lengths[k]) for k in segments])
