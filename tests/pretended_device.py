"""A device that isn't there: tensors that say they live on one, compute on the CPU, and count what would make the host
wait for a real one.

    with PretendedDevice() as device:
        device.take(vlm.model)                  # parameters and buffers "move" there
        ...                                     # real numbers; anything that works on a GPU works here
        print(device.total, device.waits)

A wait is counted where CUDA waits (`torch.cuda.set_sync_debug_mode` names the same operations): a number read from
the device (`item`, `bool`, `tolist`, a copy to the CPU), a result whose size depends on values (`nonzero`, a boolean
index), and a blocking copy from ordinary host memory to the device (`torch.tensor(…, device=…)`, `.to(device)`, a list
as an index). The device is called "meta" because PyTorch then lets a CPU-only build differentiate through it.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

aten = torch.ops.aten
DEVICE = torch.device("meta")
_SIZE_BY_VALUE = {aten.nonzero, aten.masked_select, aten.unique_consecutive, aten._unique2, aten.unique_dim}
_PACKAGE = Path(__file__).resolve().parents[1]


class There(Tensor):
    """A tensor on the pretended device; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.here = here
        return made

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor on a device to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, None)


class PretendedDevice(TorchDispatchMode):
    """See above. `waits` counts by operation and the package's line that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.waits.values())

    def __enter__(self) -> PretendedDevice:
        with ExitStack() as stack:
            # Views of tensors that are older than the block can't be wrapped in inference mode.
            stack.enter_context(patch.object(torch, "inference_mode", torch.no_grad))
            stack.enter_context(patch.object(torch, "is_autocast_enabled", _autocast))  # knows real devices alone
            stack.enter_context(_Functions())
            super().__enter__()
            self._around = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._around.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, self)

    def wait(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(_PACKAGE / "mmpo"))]
        where = f"{Path(frames[-1].filename).relative_to(_PACKAGE)}:{frames[-1].lineno}" if frames else "elsewhere"
        self.waits[f"{what} {where}"] += 1

    def take(self, module: nn.Module) -> None:
        """Move a module there, in place."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None and not isinstance(value, There):
                    part._parameters[name] = nn.Parameter(There(value.detach()), requires_grad=value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None and not isinstance(value, There):
                    part._buffers[name] = There(value)


class _Functions(TorchFunctionMode):
    """PyTorch drops the values of lists on their way to the meta device before any dispatch. Here they are made on the
    host and copied, as other devices do."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = kwargs.pop("device", None)
            if torch.device(device or (args[0].device if func is Tensor.new_tensor else "cpu")) == DEVICE:
                if func is Tensor.new_tensor:
                    kwargs.setdefault("dtype", args[0].dtype)
                    args = args[1:]
                return torch.tensor(*args, **kwargs).to(DEVICE)
            if func is Tensor.new_tensor:
                kwargs["device"] = args[0].device if device is None else device
            elif device is not None:
                kwargs["device"] = device
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            args = (args[0], self._index(args[1]), *args[2:])
        return func(*args, **kwargs)

    def _index(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(self._index(one) for one in index)
        return torch.tensor(index).to(DEVICE) if isinstance(index, list) else index


_is_autocast_enabled = torch.is_autocast_enabled


def _autocast(kind: str = "cpu") -> bool:
    return kind != DEVICE.type and _is_autocast_enabled(kind)


def _is_there(value: Any) -> bool:
    return isinstance(value, There)


def _computed(func: Any, args: Any, kwargs: Mapping[str, Any], mode: PretendedDevice | None) -> Any:
    found: list[Any] = []
    tree_map(found.append, (args, dict(kwargs)))
    asked = kwargs.get("device")
    there = any(map(_is_there, found)) or (asked is not None and torch.device(asked) == DEVICE)
    if not there:
        return func(*args, **kwargs)
    packet = func.overloadpacket
    if mode is not None:
        if packet is aten._local_scalar_dense or packet is aten.equal or packet is aten.is_nonzero:
            mode.wait("read")
        elif packet in _SIZE_BY_VALUE:
            mode.wait("size")
        elif packet in (aten._to_copy, aten.copy_):
            source = args[1] if packet is aten.copy_ else args[0]
            target = args[0].device if packet is aten.copy_ else torch.device(asked or source.device)
            blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
            if target != source.device and (blocking or target.type == "cpu"):
                if source.device.type == "cpu" and packet is aten.copy_ and source.dim() == 0:
                    pass
                else:
                    mode.wait("to host" if target.type == "cpu" else "to device")
        elif packet in (aten.index, aten.index_put, aten.index_put_):
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    mode.wait("size")
                elif index is not None and not _is_there(index):
                    mode.wait("to device")
        elif packet is aten.repeat_interleave and kwargs.get("output_size") is None and len(args) < 3:
            mode.wait("size")
    real_args, real_kwargs = tree_map(lambda v: v.here if _is_there(v) else v, (args, dict(kwargs)))
    if asked is not None and torch.device(asked) == DEVICE:
        real_kwargs["device"] = "cpu"
    real_kwargs.pop("pin_memory", None)
    if func is getattr(aten.bmm, "dtype", None):  # of 16-bit numbers, summed and given out in fp32: no CPU has it
        out = torch.bmm(real_args[0].to(real_args[2]), real_args[1].to(real_args[2]))
    else:
        out = func(*real_args, **real_kwargs)
    if packet is aten._to_copy and real_args[0].dtype == out.dtype and out is real_args[0]:
        out = out.clone()
    leaves_device = asked is not None and torch.device(asked).type == "cpu"
    if leaves_device:
        return out
    wrapped = tree_map(lambda v: There(v) if isinstance(v, Tensor) and not _is_there(v) else v, out)
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped)
