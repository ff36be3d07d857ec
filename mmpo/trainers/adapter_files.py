"""The trained adapter in files: that of the policy alone, whatever other adapters are on the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from mmpo.errors import UserError

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: PeftModel, folder: Path, state_dict: Mapping[str, Any] | None = None) -> None:
    """Write the adapter in use. `state_dict` was gathered from a sharded scorer: its names start at the scorer, peft's
    at the scorer's model."""
    if state_dict is not None:
        state_dict = {k.removeprefix("model."): v for k, v in state_dict.items() if k.startswith("model.")}
    own = [model.active_adapters[0]]
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False, selected_adapters=own)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Read weights that `save_adapter` wrote into the adapter in use. Raises `UserError` where they don't fit."""
    own = model.active_adapters[0]
    loaded: Any = set_peft_model_state_dict(model, load_file(str(folder / ADAPTER_WEIGHTS)), own)
    missing = [name for name in loaded.missing_keys if "lora_" in name and f".{own}." in name]
    if missing or loaded.unexpected_keys:
        raise UserError(
            f"{folder}: the adapter in the checkpoint does not fit this run's adapter",
            hint="resume with the settings the run was started with",
        )
