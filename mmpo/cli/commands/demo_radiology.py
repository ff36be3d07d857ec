"""mmpo demo radiology"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import OutOption, QuickOption, ResumeOption, group


@group("demo").command("radiology")
def radiology(
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other films and trains another adapter.")] = 0,
    out: OutOption = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model that scripts/train_radiology_model made.")
    ] = None,
    standard: Annotated[bool, typer.Option("--standard", help="Standard DPO: every token counts alike.")] = False,
    quick: QuickOption = False,
    resume: ResumeOption = False,
) -> None:
    """Suppress made-up earlier exams in reports of synthetic films; show before and after.

    The films are drawings and say so; the model knows nothing of real
    chests. It runs the recipe `radiology-demo`.

    [bold]Examples[/bold]

      mmpo demo radiology
      mmpo demo radiology --standard --seed 1
    """
    from mmpo.cli.demo_run import run_demo

    typed = ["mmpo", "demo", "radiology", *(["--standard"] if standard else [])]
    settings = ["train.objective.subset_dpo.gamma=1.0"] if standard else []
    run_demo("radiology-demo", typed, seed=seed, quick=quick, out=out, resume=resume, model=model, settings=settings)
