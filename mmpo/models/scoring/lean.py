"""Less memory between forward and backward, at the price of a little arithmetic: tensors that are quickly made again
from others that are kept anyway are not kept.

Two such make up a third of what a decoder layer with an adapter on every linear layer keeps:

* in a gated feed-forward layer, down(act(gate) * up): the product, which the adapter's first matrix keeps, and
  act(gate), both from gate and up;
* in attention over trees, the keys and values of a branch after its prompt, copied together from the row's.

And under autocast an adapter in float32 casts its input up and each of its products casts it down again, every time
into a copy that is kept: the input as it is does as well.

What is computed is the same, bit for bit. With activation checkpointing nothing of this happens: a layer then keeps
nothing but its input, and what is held here would be kept as well.
"""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from itertools import chain
from types import MethodType
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from transformers import PreTrainedModel

from mmpo.models.scoring.last_layer import has_own_forward, only_read

logger = logging.getLogger(__name__)

Pack = Callable[[Tensor], Any]

_on: ContextVar[bool] = ContextVar("recompute", default=False)
_watch: ContextVar[Pack] = ContextVar("watch_kept", default=lambda tensor: tensor)

_GATED = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
_FORWARDS = (f"return {_GATED}", f"down_proj = {_GATED}\nreturn down_proj")
"""The layers' own code in transformers."""


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Forward passes inside keep less for their backward pass, unless decoder layers checkpoint their activations."""
    layers = getattr(model.get_decoder(), "layers", ())
    token = _on.set(not any(getattr(layer, "gradient_checkpointing", False) or _wrapped(layer) for layer in layers))
    try:
        yield
    finally:
        _on.reset(token)


@contextmanager
def watching_kept(see: Callable[[Tensor], None], *, hold: bool = True) -> Iterator[None]:
    """Shows `see` every tensor that is kept for backward inside; what is made again instead is not among them. Without
    `hold` none is really kept, and there can be no backward."""

    def pack(tensor: Tensor) -> Tensor | None:
        see(tensor)
        return tensor if hold else None

    token = _watch.set(pack)
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        _watch.reset(token)


def _wrapped(layer: nn.Module) -> bool:
    return isinstance(layer, CheckpointWrapper)  # as FSDP's own activation checkpointing does it


def made_again(tensors: Sequence[Tensor], make: Callable[[], Sequence[Tensor]]) -> AbstractContextManager[Any]:
    """Operations inside that keep one of `tensors` (each contiguous) call `make` in their backward pass instead.

    `make` returns the same tensors again, without autograd; it may hold on to nothing that isn't kept anyway."""
    if not (_on.get() and torch.is_grad_enabled()):
        return nullcontext()
    known = {tensor.untyped_storage().data_ptr(): (place, tensor.numel()) for place, tensor in enumerate(tensors)}
    watch = _watch.get()

    def pack(kept: Tensor) -> Any:
        place, size = known.get(kept.untyped_storage().data_ptr(), (-1, 0))
        if kept.numel() != size or not kept.is_contiguous():
            return watch(kept)
        return place, kept.shape

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        place, shape = packed
        with torch.no_grad():
            return make()[place].view(shape)

    return saved_tensors_hooks(pack, unpack)


def recompute_feed_forward(model: nn.Module) -> int:
    """Give the gated feed-forward layers of a decoder the forward that can keep less; outside `recomputing` it is the
    ordinary one. Returns how many there are: layers that compute anything else are left alone, which is logged."""
    layers = getattr(model, "layers", [model])
    found = [[module for module in layer.modules() if _is_gated(module)] for layer in layers]
    for module in chain.from_iterable(found):
        module.forward = MethodType(_feed_forward, module)
    _tell(type(model).__name__, sum(map(bool, found)), len(found))
    return sum(map(len, found))


@cache  # once a process, however many scorers it makes
def _tell(model: str, matched: int, layers: int) -> None:
    """The code of layers is compared with what transformers has today; tomorrow's may be another."""
    logger.log(
        logging.DEBUG if matched == layers else logging.INFO,
        "%s: the feed-forward layers of %d of %d decoder layers keep less for backward, %d are not known and keep all",
        model, matched, layers, layers - matched,
    )  # fmt: skip


def recompute_adapters(model: nn.Module) -> None:
    """Under autocast, let adapters take inputs that have its dtype as they are."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "_cast_input_dtype"):
            vars(module)["_cast_input_dtype"] = MethodType(_cast_input, module)


def _cast_input(self: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype == torch.get_autocast_dtype(kind):
        return x
    return type(self)._cast_input_dtype(self, x, dtype)


def _is_gated(module: nn.Module) -> bool:
    """True if the layer's own code is down(act(gate(x)) * up(x)), and nothing else."""
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    if not has_own_forward(module, _feed_forward) or type(module.act_fn).__name__ not in _DERIVATIVES:
        return False
    try:
        own: Any = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward))).body[0]
    except (OSError, TypeError, SyntaxError):  # a layer without source
        return False
    return "\n".join(map(ast.unparse, own.body)) in _FORWARDS


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    return only_read(self, partial(_gated, self), x)


def _gated(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if not (_on.get() and torch.is_grad_enabled() and gate.requires_grad):
        return self.down_proj(self.act_fn(gate) * up)
    product = _Gated.apply(gate, up, self.act_fn)
    gate, up, act = gate.detach(), up.detach(), self.act_fn
    with made_again([product], lambda: [act(gate) * up]):
        return self.down_proj(product)


class _Gated(torch.autograd.Function):
    """act(gate) * up, keeping gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        return _DERIVATIVES[type(ctx.act).__name__](grad * up, gate), grad * ctx.act(gate), None


_aten = torch.ops.aten
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SiLU": _aten.silu_backward,
    "SiLUActivation": _aten.silu_backward,
    "GELUTanh": partial(_aten.gelu_backward, approximate="tanh"),
    "PytorchGELUTanh": partial(_aten.gelu_backward, approximate="tanh"),
    "GELUActivation": _aten.gelu_backward,
}
"""(incoming gradient, gate) -> the gradient of act at the gate: the kernels that autograd itself calls."""
