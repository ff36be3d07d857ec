"""Short clips of the demo world with exact events, and a small LLaVA that makes up things and events in them."""

from __future__ import annotations

from pathlib import Path

from mmpo.errors import UserError


def model_path() -> Path:
    """The folder of the shipped model. Raises UserError where it isn't there."""
    folder = Path(__file__).parent / "model"
    if not (folder / "config.json").exists():
        raise UserError(
            "the video demo's model is not in this installation",
            hint="train it in a checkout of mmpo: python -m tools.demo_models.video_pretrain OUT; "
            "then mmpo demo video --model OUT/model",
        )
    return folder
