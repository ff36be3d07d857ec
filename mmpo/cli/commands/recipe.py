"""mmpo recipe list | show NAME | check FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import RecipeArgument, SetOption, app
from mmpo.cli.visible import echo

recipes_app = typer.Typer(
    help="List, print and check recipes.",
    epilog="A recipe is one YAML file with the sections build, train and eval. Start from a shipped one: "
    "[cyan]mmpo recipe show own-images > my.yaml[/cyan]",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(recipes_app, name="recipe")


@recipes_app.command("list")
def list_recipes() -> None:
    """List the recipes that come with mmpo.

    Each is a YAML file to copy and edit: data and model are paths in it.

    [bold]Example[/bold]

      mmpo recipe list
    """
    from mmpo.cli import console
    from mmpo.recipes import read, shipped

    for name in shipped():
        console.out.print(f"[bold]{name}[/bold]\n  {read(name).data.get('description', '')}", soft_wrap=True)


@recipes_app.command("show")
def show(recipe: RecipeArgument) -> None:
    """Print a recipe as it is written, comments included.

    The copy is yours to edit; the comments say what each value does.

    [bold]Example[/bold]

      mmpo recipe show own-images > my.yaml
    """
    from mmpo.recipes import read_text

    echo(read_text(recipe)[0], nl=False)


@recipes_app.command("check")
def check(
    recipe: RecipeArgument,
    set_: SetOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print every key that will be used, defaults included, as a recipe.")
    ] = False,
) -> None:
    """Look for mistakes in a recipe, without running it; all are listed at once.

    Looked at are keys and values, the objective, every path, models, their
    processors and adapters, the files of builders and benchmarks, packages,
    judges, room on the disk. The commands that run a recipe look first, too.

    [bold]Examples[/bold]

      mmpo recipe check my.yaml --set train.max_steps=50
      mmpo recipe check my.yaml --full > resolved.yaml
    """
    from mmpo.cli import console
    from mmpo.cli.demo_world import DemoWorld
    from mmpo.preflight import examine
    from mmpo.preflight.summary import summary
    from mmpo.recipes import dump, override, read

    source = read(recipe)
    override(source, set_ or ())
    run = Path("runs") / str(source.data["name"])
    checked, warnings = examine(source, run=run, inputs=DemoWorld.names(run))
    for warning in warnings:
        console.warn(warning)
    if full:
        echo(dump(checked.model_dump(mode="json")), nl=False)
    else:
        for line in summary(checked.sections(), checked):
            console.line(line)
    console.err.print(
        f"{recipe}: correct; it has {', '.join(checked.sections()) or 'no section to run'}", soft_wrap=True
    )
