"""mmpo demo video"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import OutOption, QuickOption, ResumeOption, group


@group("demo").command("video")
def video(
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other clips and trains another adapter.")] = 0,
    out: OutOption = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model that scripts/train_video_model made.")
    ] = None,
    quick: QuickOption = False,
    resume: ResumeOption = False,
) -> None:
    """Rewards from captions on short clips: fewer made-up events; show before and after.

    A small LLaVA that makes up events answers questions about drawn clips.
    Rules over the clips' annotations reward its answers, pairs are made of
    good and bad ones, DPO learns from them. It runs the recipe `video-demo`.

    [bold]Examples[/bold]

      mmpo demo video
      mmpo demo video --quick --out runs/try-video
    """
    from mmpo.cli.demo_run import run_demo

    run_demo("video-demo", ["mmpo", "demo", "video"], seed=seed, quick=quick, out=out, resume=resume, model=model)
