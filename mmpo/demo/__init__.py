"""The embedded default: a small annotated world, and a small LLaVA that hallucinates in it."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The folder of the shipped demo model."""
    return Path(__file__).parent / "model"
