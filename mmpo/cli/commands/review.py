"""mmpo review PAIRS|EVAL|CANDIDATES"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpo.cli.app import app

if TYPE_CHECKING:
    from mmpo.review.session import QueueKind

FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="The decisions; FOLDER/reviews.jsonl by default.")
]


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pairs, the eval folder of a run, or candidates.")],
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides; your user name by default.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only N drawn at random: the share accepted holds for all.")
    ] = None,
    second: Annotated[
        bool, typer.Option("--second", help="What others decided, without their verdicts: gives kappa.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the order of --second.")] = 0,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where pictures are that are no longer where they were.")
    ] = None,
    file: FileOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Look at pairs, answers or claims in the browser, and decide about each.

    The page is on this machine only, and the keyboard comes first: a accepts,
    d drops, s swaps, e edits, u is unsure, m marks what is selected. Worst
    problems come first. Every decision is on the disk before the next item is
    shown, and nothing else is changed: mmpo apply-reviews makes use of them.

    [bold]Examples[/bold]

      mmpo review runs/mine/build/pairs
      mmpo review runs/mine/build/pairs --sample 100
      mmpo review runs/mine/build/pairs --second --reviewer anna
      mmpo review runs/mine/eval
    """
    from mmpo.cli import console
    from mmpo.errors import UserError
    from mmpo.packages import STARLETTE, UVICORN, require
    from mmpo.review.serve import opened_session, serve

    require("mmpo review", STARLETTE, UVICORN)
    if second and sample is not None:
        raise UserError("--sample and --second are two queues", hint="run them one after another")
    kind: QueueKind = "second" if second else "sample" if sample is not None else "worst"

    def ready(address: str) -> None:
        console.heading(f"open {address}")
        console.line(f"decisions go to {session.log.path}; Ctrl-C ends")

    with opened_session(
        folder,
        reviewer=reviewer or getpass.getuser(),
        file=file,
        images=images,
        kind=kind,
        size=sample or 0,
        seed=seed,
    ) as session:
        serve(session, port=port, ready=ready)
        progress = session.progress()
        console.line(f"{progress.done:,} of {progress.total:,} decided")
        for told in (progress.precision, progress.agreement):
            if told is not None:
                console.line(str(told))
        noun = "apply-reviews"
        console.next_steps([("use the decisions", console.command_line("mmpo", noun, folder, "--out", "DIR"))])
