"""Processes that train together, and weights that accelerate cuts up between them (FSDP2, DeepSpeed's ZeRO)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from mmpo.errors import UserError


def is_asked(how: str) -> bool:
    """True if the launcher was told to cut weights up: `how` is FSDP or DEEPSPEED."""
    return os.environ.get(f"ACCELERATE_USE_{how}", "false").lower() == "true"


def is_cut() -> bool:
    """True if this run's weights (or, under ZeRO-2, its gradients) will be cut up between processes."""
    return is_asked("FSDP") or is_asked("DEEPSPEED")


def check_launch() -> None:
    """Raises `UserError` for ways to cut weights up that can't work here, or would not cut them up."""
    if is_asked("DEEPSPEED") and not torch.cuda.is_available():
        raise UserError("DeepSpeed through accelerate does not start on CPUs", hint="use FSDP, or machines with GPUs")
    if not is_asked("FSDP"):
        return
    for name, wanted, why in (
        ("VERSION", "2", "FSDP of the first kind is not supported"),
        ("AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP", "without it every process would gather the whole model at once"),
        ("CPU_RAM_EFFICIENT_LOADING", "false", "every process scores with weights of its own before training"),
    ):
        default = {"VERSION": "1", "CPU_RAM_EFFICIENT_LOADING": "false"}.get(name, "none")
        if os.environ.get(f"FSDP_{name}", default).lower() != wanted.lower():
            raise UserError(f"accelerate's FSDP: {why}", hint=f"fsdp_{name.lower()}: {wanted}")


def join_processes() -> PartialState:
    """This process among those of its launcher. Raises `UserError` as `check_launch` does."""
    check_launch()
    # Said outright, or processes without a GPU never join the group.
    state = PartialState(cpu=not torch.cuda.is_available())
    if is_asked("FSDP") and state.distributed_type is DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU  # accelerate overlooks FSDP where there are CPUs alone
    return state


def loading_device(state: PartialState) -> torch.device:
    """Where a model is loaded: in memory where its weights are to be cut up, so that no device ever holds them all."""
    return torch.device("cpu") if is_asked("FSDP") else state.device


@contextmanager
def gathered_root(model: nn.Module) -> Iterator[None]:
    """The weights that FSDP keeps at the root (embeddings, tower, head) are whole inside, for calls of parts of the
    model; layers gather their own. Every process must enter, and make the same calls."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def whole_trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights that train, by their names, whole and on the CPU. Every process must call it."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = stored_name(name)
        if isinstance(parameter, DTensor):
            found[name] = parameter.full_tensor().detach().cpu()
        elif hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                found[name] = parameter.detach().cpu().clone()
        else:
            found[name] = parameter.detach().cpu()
    return found


def stored_name(name: str) -> str:
    """The name of a parameter in files: FSDP's own checkpointing of activations puts a part of its own in."""
    return name.replace("_checkpoint_wrapped_module.", "")


def size(parameter: nn.Parameter) -> int:
    """The numbers in a parameter, of which ZeRO-3 leaves none in place."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole(value: Any) -> Any:
    """A number of all processes, such as the norm of cut-up gradients, in each of them."""
    return value.full_tensor() if isinstance(value, DTensor) else value
