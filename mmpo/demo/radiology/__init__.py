"""A small world of synthetic chest films with reports, and a small LLaVA that hallucinates earlier exams in it.

The films are drawings. They teach nothing about real chests, and no real film or report went into them.
"""

from __future__ import annotations

from pathlib import Path

from mmpo.errors import UserError


def model_path() -> Path:
    """The folder of the shipped model. Raises UserError where it isn't there."""
    folder = Path(__file__).parent / "model"
    if not (folder / "config.json").exists():
        raise UserError(
            "the radiology demo's model is not in this installation",
            hint="train it in half an hour, in a checkout of mmpo: python -m tools.demo_models.radiology_pretrain OUT; "
            "then mmpo demo radiology --model OUT/model",
        )
    return folder
