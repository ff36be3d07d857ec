"""The decoder's last layer, only where its outcome is read.

Log-probs need the last hidden states of a row's scored tokens alone. In the last layer every token still gives keys and
values; queries, output projection and feed-forward of all others change nothing that anybody reads. A prompt of
thousands of image tokens thus goes through one layer less: forward, backward and reference.

The rows that are read travel in the `TreePlan`, a keyword of attention; the rest of the layer learns them from there.
So a second computation of the layer (checkpointing, in backward) gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import Tensor, nn


@dataclass
class RowReading:
    """State shared by the parts of the layer: the rows [n] that are read in this pass, None for all."""

    rows: Tensor | None = None


def read_last_layer_only_where_needed(decoder: nn.Module) -> bool:
    """Prepare the last layer for plans that name rows; whether it could be. Its feed-forward layer then has to ask
    `only_read`, as those of `mmpo.models.scoring.lean` do."""
    layer: Any = decoder.layers[-1]  # type: ignore[index]
    attention: Any = getattr(layer, "self_attn", None)
    projection: Any = getattr(attention, "o_proj", None)
    mlp: Any = getattr(layer, "mlp", None)
    if not all(isinstance(part, nn.Module) for part in (attention, projection, mlp)):
        return False
    if not (has_own_forward(attention, _attend) and has_own_forward(projection, _project)):
        return False
    reading = getattr(attention, "reading", None) or RowReading()
    attention.reading = projection.reading = mlp.reading = reading
    attention.forward = MethodType(_attend, attention)
    projection.forward = MethodType(_project, projection)
    return True


def has_own_forward(module: Any, ours: Callable[..., Any]) -> bool:
    """True if `module` runs its class's forward, or `ours` in its place, and not another library's replacement."""
    forward = vars(module).get("forward")
    return forward is None or getattr(forward, "__func__", None) is ours


def rows_read(module: nn.Module) -> Tensor | None:
    """The rows that are read of what `module`, a part of a prepared layer, computes in this pass; None for all."""
    reading: RowReading | None = getattr(module, "reading", None)
    return None if reading is None else reading.rows


def only_read(module: nn.Module, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`compute`, which treats each row by itself, on the rows of `x` [1, s, h] that are read; zeros elsewhere."""
    rows = rows_read(module)
    if rows is None:
        return compute(x)
    out = compute(x.index_select(1, rows))
    return out.new_zeros(*x.shape[:-1], out.shape[-1]).index_copy(1, rows, out)


def _attend(self: Any, *args: Any, **kwargs: Any) -> Any:
    plan = kwargs.get("tree_plan")
    self.reading.rows = None if plan is None else plan.read
    return type(self).forward(self, *args, **kwargs)


def _project(self: Any, x: Tensor) -> Tensor:
    return only_read(self, lambda part: type(self).forward(self, part), x)
