"""mmpo objectives [show NAME | check FILE]"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import JsonOption, app
from mmpo.cli.visible import echo

objectives_app = typer.Typer(
    help="List the losses that a recipe can train on, show one, check them against golden values.",
    epilog="For example [cyan]mmpo objectives show dpo[/cyan]. A recipe names them under [cyan]train.objective[/cyan].",
    invoke_without_command=True,
    rich_markup_mode="rich",
)
app.add_typer(objectives_app, name="objectives")

LinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="MODULE", help="Import this module first: losses of your own.", show_default=False
    ),
]


@objectives_app.callback()
def list_objectives(
    context: typer.Context,
    needs: Annotated[
        str | None,
        typer.Option("--needs", metavar="FIELD", help="Only those that read a field: ref, sc, kl, state, view …"),
    ] = None,
    as_json: LinesOption = False,
    plugin: PluginOption = None,
) -> None:
    """List the losses that a recipe can train on, one line each.

    Name, parameters with defaults, what is read, source; in the order of the
    sections of the specification. No model, GPU or network is needed.

    [bold]Examples[/bold]

      mmpo objectives
      mmpo objectives --needs sc
      mmpo objectives show dpo
      mmpo objectives check golden.json
    """
    _import(plugin)
    if context.invoked_subcommand is not None:
        return
    from mmpo.cli.objective_texts import row
    from mmpo.objectives.describing import description, listed

    for entry in listed(needs):
        echo(json.dumps(description(entry), ensure_ascii=False) if as_json else row(entry))


@objectives_app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An objective, or another name that papers give it.")],
    as_json: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Show a loss: formula, source, parameters, what it reads and remembers.

    Also the reward that is logged, the identities that hold for it, and how
    a recipe names it.

    [bold]Examples[/bold]

      mmpo objectives show dpo
      mmpo objectives show irpo --json
      mmpo objectives show my_loss --plugin my_losses
    """
    _import(plugin)
    from mmpo.cli import console
    from mmpo.cli.objective_texts import details, page
    from mmpo.objectives.describing import warning
    from mmpo.objectives.names import resolve
    from mmpo.objectives.registry import OBJECTIVES

    meant = resolve(name, OBJECTIVES)
    entry = OBJECTIVES[meant.name]
    if as_json:
        echo(json.dumps(details(name, meant), indent=2, ensure_ascii=False))
    else:
        echo(page(name, meant))
    if told := warning(entry, meant.parameters):
        console.warn(told)


@objectives_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Golden values, schema_version 1 or 2.")],
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME", help="Only the cases of this objective, or of this id.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER", help="How far a number may be off, absolutely or relatively. The file's own by default."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rewards, margins and details count as well.")] = False,
    as_json: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Recompute golden values with the functions that training calls.

    Every case is a record in float64, padded to its longest response. One line
    a case, then the largest errors. Exit 0: all are right; 1: some are not; 2:
    the file cannot be read.

    [bold]Examples[/bold]

      mmpo objectives check golden.json
      mmpo objectives check golden.json --only dpo --tolerance 1e-9
      mmpo objectives check golden.json --plugin my_losses
    """
    _import(plugin)
    from mmpo.cli import console
    from mmpo.cli.objective_checks import run_checks

    right = run_checks(file, only=only, tolerance=tolerance, strict=strict, as_json=as_json, warn=console.warn)
    if not right:
        raise typer.Exit(1)


def _import(modules: list[str] | None) -> None:
    from mmpo import plugins

    for module in modules or ():
        plugins.load(module)
