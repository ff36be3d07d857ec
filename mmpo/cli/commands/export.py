"""mmpo export RUN OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import app


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with finished training.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model, with the adapter merged into its weights.")
    ] = False,
) -> None:
    """Put the trained adapter, or the merged model, into a folder of its own.

    The folder has a model card with data, recipe and results. peft opens the
    adapter, transformers the merged model; the merged one is read back and
    compared with model and adapter before it counts as done.

    [bold]Examples[/bold]

      mmpo export runs/mine my-adapter
      mmpo export runs/mine my-model --merge
    """
    from mmpo.cli import console
    from mmpo.cli.logs import quiet_libraries
    from mmpo.preflight.commands import examine_export
    from mmpo.trainers import export as work

    quiet_libraries()
    for warning in examine_export(run, out, merge=merge):
        console.warn(warning)
    done = work.export(run, out, merge=merge)
    console.heading(f"{'merged model' if done.merged else 'adapter'}: {done.folder}")
    if done.difference is not None and done.effect is not None:
        console.line(
            f"read back: at most {done.difference:.1g} nats per token from model and adapter, whose own effect is "
            f"{done.effect:.2g}"
        )
    console.line(f"model card: {done.folder / 'README.md'}")
