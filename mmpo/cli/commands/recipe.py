"""mmpo recipe list | show NAME | check FILE"""

from __future__ import annotations

from pathlib import Path

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
    """List the recipes that come with mmpo."""
    from mmpo.cli import console
    from mmpo.recipes import read, shipped

    for name in shipped():
        console.out.print(f"[bold]{name}[/bold]\n  {read(name).data.get('description', '')}")


@recipes_app.command("show")
def show(recipe: RecipeArgument) -> None:
    """Print a recipe as it is written, comments included.

    [bold]Example[/bold]

      mmpo recipe show own-images > my.yaml
    """
    from mmpo.recipes import read_text

    echo(read_text(recipe)[0], nl=False)


@recipes_app.command("check")
def check(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Check a recipe and print it resolved: every key that will be used, defaults included. Nothing runs.

    [bold]Example[/bold]

      mmpo recipe check my.yaml --set train.max_steps=50
    """
    from mmpo.cli import console
    from mmpo.cli.demo_world import DemoWorld
    from mmpo.recipes import complete, dump, override, read

    source = read(recipe)
    override(source, set_ or ())
    run = Path("runs") / str(source.data["name"])
    checked = complete(source, run=run, inputs=DemoWorld.names(run))
    echo(dump(checked.model_dump(mode="json")), nl=False)
    console.err.print(f"{recipe}: correct; it has {', '.join(checked.sections()) or 'no section to run'}")
