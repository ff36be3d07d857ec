"""mmpo export RUN OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import app


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with finished training.")],
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The new folder. May be left out with --check-server.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model, with the adapter merged into its weights.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            "--check-server",
            metavar="URL",
            help="Ask a server that should serve the adapter, and compare its log-probs with the adapter's here.",
        ),
    ] = None,
    served: Annotated[
        str | None,
        typer.Option("--served", metavar="NAME", help="The adapter as the server calls it; by default its only one."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--api-key-env", metavar="VARIABLE", help="The environment variable with the server's key."),
    ] = None,
) -> None:
    """Put the trained adapter, or the merged model, into a folder of its own.

    The folder has a model card with data, recipe and results. peft opens the
    adapter, transformers the merged model; the merged one is read back and
    compared with model and adapter before it counts as done.

    With --check-server a few answers of a server are compared with the
    adapter's own log-probs; where it serves something else, the command fails.

    [bold]Examples[/bold]

      mmpo export runs/mine my-adapter
      mmpo export runs/mine my-model --merge
      mmpo export runs/mine --check-server http://localhost:8000/v1
    """
    from mmpo.cli import console
    from mmpo.cli.logs import quiet_libraries
    from mmpo.errors import UserError
    from mmpo.preflight.commands import examine_export
    from mmpo.trainers import export as work

    quiet_libraries()
    if server is None and (served or key):
        raise UserError("--served and --api-key-env belong to --check-server", hint="name the server's URL with it")
    if out is None and (server is None or merge):
        raise UserError("OUT is missing", hint="name a new folder; only --check-server does without")
    if out is not None:
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
    if server is not None:
        from mmpo.trainers.serving_check import check_server

        found = check_server(work.finished(run), server, served, api_key_env=key)
        if found.verdict != "right":
            raise UserError(
                found.line,
                hint="start the server with the adapter (vLLM: --enable-lora --max-lora-rank 128 "
                "--lora-modules NAME=FOLDER) and read its log for modules that it passes over; or export --merge",
            )
        console.line(found.line)
