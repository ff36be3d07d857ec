"""mmpo demo"""

from __future__ import annotations

from typing import Annotated

import typer

from mmpo.cli.app import DEFAULT, OutOption, QuickOption, ResumeOption, group


@group("demo").command(DEFAULT)
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another world and trains another adapter.")] = 0,
    out: OutOption = None,
    quick: QuickOption = False,
    resume: ResumeOption = False,
) -> None:
    """Build, train and evaluate on a small annotated world; show before and after.

    The world and a small LLaVA that hallucinates come with mmpo, so this
    needs no data and no network. It runs the recipe `demo`, which
    `mmpo recipe show demo` prints.

    [bold]Examples[/bold]

      mmpo demo
      mmpo demo --quick --out runs/try
      mmpo demo --seed 1
    """
    from mmpo.cli.demo_run import run_demo

    run_demo("demo", ["mmpo", "demo"], seed=seed, quick=quick, out=out, resume=resume)
