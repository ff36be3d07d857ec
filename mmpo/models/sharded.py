"""Weights that are sharded over processes, so that every use of them takes all processes."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """True if some of the module's weights are sharded now, by DeepSpeed's ZeRO-3 or by FSDP of either kind. (Those
    that FSDP has gathered for a running forward pass are whole.)"""
    if any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in module.parameters()):
        return True
    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules())
