"""The trained adapter in files: that of the policy alone, whatever other adapters are on the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mmpo.errors import UserError
from mmpo.trainers.sharding import stored_name

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: PeftModel, folder: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write the adapter in use. `state_dict` holds the trained weights of a scorer, gathered where they are sharded:
    its names start at the scorer, peft's at the scorer's model."""
    state_dict = {k.removeprefix("model."): v for k, v in state_dict.items() if k.startswith("model.")}
    own = [model.active_adapters[0]]
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False, selected_adapters=own)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Read weights that `save_adapter` wrote into the adapter in use, each process its own part where they are sharded.
    Raises `UserError` where they don't fit."""
    own = model.active_adapters[0]
    weights = load_file(str(folder / ADAPTER_WEIGHTS))
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        missing, unexpected = _load_sharded(model, weights, own)
    else:
        loaded: Any = set_peft_model_state_dict(model, weights, own)
        missing, unexpected = loaded.missing_keys, loaded.unexpected_keys
    if unexpected or any("lora_" in name and f".{own}." in name for name in missing):
        raise UserError(
            f"{folder}: the adapter in the checkpoint does not fit this run's adapter",
            hint="resume with the settings the run was started with",
        )


@torch.no_grad()
def _load_sharded(model: PeftModel, weights: dict[str, Tensor], own: str) -> tuple[list[str], list[str]]:
    """As peft does for whole weights, which knows no others. Names without a value, and values without a name."""
    missing = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        value = weights.pop(stored_name(name).replace(f".{own}.", "."), None)
        if value is None or value.shape != parameter.shape:
            missing.append(name)
        elif isinstance(parameter, DTensor):
            value = value.to(parameter.device)
            parameter.copy_(distribute_tensor(value, parameter.device_mesh, parameter.placements))
        else:
            parameter.copy_(value)
    return missing, list(weights)
