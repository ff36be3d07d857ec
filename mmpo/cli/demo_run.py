"""Runs a demo: its recipe, in the demo's world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmpo.cli import console
from mmpo.cli.demo_world import QUICK_SPLITS, SPLITS, DemoWorld
from mmpo.cli.running import run_recipe
from mmpo.errors import UserError

QUICK_SETTINGS = ("train.max_steps=10", "eval.bootstrap.samples=1000")
"""`mmpo demo --quick`: to see that everything works, not to measure."""
TOO_SMALL = "too small to measure; the numbers only show that everything runs"


def run_demo(
    recipe: str,
    typed: Sequence[str],
    *,
    seed: int,
    quick: bool,
    out: Path | None,
    resume: bool,
    model: Path | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Run a demo's recipe. `typed` is the command without the options that all demos have, `settings` are changes of
    the recipe. Raises UserError for a `model` that is no folder of a model, before anything is drawn."""
    if model is not None and not (model / "config.json").is_file():
        raise UserError(f"{model}: not a model folder (no config.json)", hint="leave --model out for the shipped model")

    if quick:
        console.warn(f"--quick: {TOO_SMALL}")
    run_recipe(
        recipe,
        settings=[
            f"seed={seed}",
            *(QUICK_SETTINGS if quick else ()),
            *([f"model={model}"] if model else ()),
            *settings,
        ],
        out=out,
        resume=resume,
        demo=DemoWorld(QUICK_SPLITS if quick else SPLITS),
        typed=[
            *typed,
            *(["--seed", str(seed)] if seed else ()),
            *(["--model", str(model)] if model else ()),
            *(["--quick"] if quick else ()),
        ],
    )
    if quick:
        console.line(f"--quick: {TOO_SMALL}")
