"""Weights that are cut up between processes, so that every use of them takes all of these."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether some of the module's weights are cut up just now, by DeepSpeed's ZeRO-3 or by FSDP of either kind. (Those
    that FSDP has put together for a forward pass going on are whole.)"""
    if any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in module.parameters()):
        return True
    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules())
