"""Names and results of transformers 5.18 to 5.22 that differ in 5.23. The rest of mmpo is written for the newest.

A function goes when the floor in pyproject.toml passes the version that it names. `scripts/test-oldest` runs the tests
with the floors.
"""

from __future__ import annotations

from typing import Any


def enable_checkpointing(model: Any) -> None:
    """Gradient checkpointing without re-entrance; 5.23 gave the method another name."""
    kwargs = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
