"""mmpo report RUN|PAIRS|EVAL …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import app


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN|PAIRS|EVAL …", help="Run folders, pairs, evaluations.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Where to write it.")] = None,
    cards: Annotated[int, typer.Option(min=1, max=5000, help="Pairs, and answers, that are shown.")] = 400,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The pictures of an evaluation that does not say where they are.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file to look at, and to send: pictures, numbers, curves.

    Nothing in it is fetched from the network. It begins with what got
    better and worse, and one answer of each; then pairs, training and
    evaluation. Several runs stand over each other.

    [bold]Examples[/bold]

      mmpo report runs/mine --open
      mmpo report runs/mine/build/pairs --out pairs.html
      mmpo report runs/first runs/second --out both.html
    """
    import webbrowser

    from mmpo.cli import console
    from mmpo.report.report import write_report

    made = write_report(paths, out, cards=cards, images=images)
    console.line(f"report: {made.path} ({made.size / 1e6:.1f} MB)")
    if made.rows is not None:
        console.line(f"all pairs as JSON Lines: {made.rows}")
    if open_ and not webbrowser.open(made.path.resolve().as_uri()):
        console.warn("no browser could be opened")
