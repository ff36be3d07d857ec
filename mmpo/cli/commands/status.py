"""mmpo status RUN"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import JsonOption, app


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, of this machine or shared.")],
    as_json: JsonOption = False,
) -> None:
    """How far a run is, and who works on it; reads only.

    Units and answers that are there, what is claimed by whom and since when,
    the rate of the last units, and the time that is left at this rate.

    [bold]Examples[/bold]

      mmpo status runs/mine
      mmpo status runs/mine --json
    """
    from dataclasses import asdict

    from mmpo.cli import console
    from mmpo.cli.run_status import status_of, workers_of
    from mmpo.cli.visible import echo
    from mmpo.progress_display import duration

    steps, workers = status_of(run), workers_of(run)
    if as_json:
        echo(json.dumps({"workers": [asdict(one) for one in workers], "steps": [asdict(step) for step in steps]}))
        return
    for worker in workers:
        console.line(f"{worker.by}, since {worker.since}{', dead' if worker.dead else ''}")
    for step in steps:
        console.heading(f"{step.name}: {step.state}")
        for work in step.work:
            of = "" if work.total is None else f" of {work.total:,}"
            rate = "" if not work.per_second else f", {60 * work.per_second:.3g} a minute"
            left = "" if not work.seconds_left else f", {duration(work.seconds_left)} left"
            console.line(f"{work.what}: {work.done:,}{of}{rate if left else ''}{left}")
            for one in work.claimed:
                console.line(f"  {one.what}: {one.by}, since {one.since}{', dead' if one.dead else ''}")
