"""mmpo demo radiology"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import OutOption, ResumeOption, group


@group("demo").command("radiology")
def radiology(
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other films and trains another adapter.")] = 0,
    out: OutOption = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model trained with mmpo.demo.radiology.pretrain.")
    ] = None,
    standard: Annotated[bool, typer.Option("--standard", help="Standard DPO: every token counts alike.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small part of everything: to see that it works, not to measure.")
    ] = False,
    resume: ResumeOption = False,
) -> None:
    """Suppress made-up earlier exams in reports of synthetic films; show before and after.

    The films are drawings and say so; the model knows nothing of real
    chests. It runs the recipe `radiology-demo`.

    [bold]Examples[/bold]

      mmpo demo radiology
      mmpo demo radiology --standard --seed 1
    """
    from mmpo.cli.demo_world import QUICK_SETTINGS, QUICK_SPLITS, SPLITS, DemoWorld
    from mmpo.cli.running import run_recipe

    settings = [f"seed={seed}", *(QUICK_SETTINGS if quick else ())]
    typed = ["mmpo", "demo", "radiology", *(["--seed", str(seed)] if seed else [])]
    if model is not None:
        settings.append(f"model={model}")
        typed += ["--model", str(model)]
    if standard:
        settings.append("train.objective.subset_dpo.gamma=1.0")
        typed.append("--standard")
    run_recipe(
        "radiology-demo",
        settings=settings,
        out=out,
        resume=resume,
        demo=DemoWorld(QUICK_SPLITS if quick else SPLITS),
        typed=[*typed, *(["--quick"] if quick else [])],
    )
