"""Pairs, a model with an adapter, and settings that are done in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpo.diagnose.settings import DiagnoseSettings
from tests.tiny import add_lora, tiny_llava


def save_adapter(folder: Path, spread: float = 0.2) -> Path:
    """An adapter that changes what the tiny model says."""
    add_lora(tiny_llava(), spread=spread).model.save_pretrained(folder)
    return folder


def small(pairs: Path, model: Path, adapter: Path | None = None, **options: Any) -> DiagnoseSettings:
    values: dict[str, Any] = {"prompts": 3, "samples": 2, "max_new_tokens": 4, "batch_size": 3, "dtype": "float32"}
    return DiagnoseSettings(
        pairs=pairs, model=str(model), adapter=None if adapter is None else str(adapter), **{**values, **options}
    )
