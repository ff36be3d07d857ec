"""mmpo select RECIPE|PAIRS"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.app import OutOption, ResumeOption, SetOption, app


@app.command()
def select(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|PAIRS", help="A recipe with a `select:` section, or a folder of pairs.")
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTOR",
            help="With PAIRS: a selector, 'dual_margin: {keep: 0.1}' or its name. Repeatable, one after another.",
        ),
    ] = None,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Choose among preference pairs: the `select:` section of a recipe.

    Selectors drop pairs, rank them, or put them in order, one after another:
    dual_margin, reference_gap, beta_dpo, wpo, madpo, length_balance,
    minimal_edit, consensus, bootstrap, curry, rank_difference, and those of
    plug-ins. The new pairs are in DIR/select/pairs; its rejects.jsonl says why
    each other pair was dropped. The pairs that were chosen from stay as they
    are.

    [bold]Examples[/bold]

      mmpo select my.yaml --out runs/mine    # after mmpo build there
      mmpo select runs/mine/build/pairs --by length_balance
      mmpo select pairs --by 'dual_margin: {keep: 0.25}' --by length_balance \\
          --set select.model=MODEL --set select.adapter=runs/first/train/adapter
      mmpo select pairs --by 'reference_gap: {keep: 0.4}' \\
          --set select.logps=runs/other/select/logps
    """
    from mmpo.cli.running import run_recipe
    from mmpo.errors import UserError

    folder = Path(recipe)
    if not folder.is_dir():
        if by and not folder.exists():
            raise UserError(f"{recipe}: no such folder", hint="--by chooses among the pairs of a folder")
        if by:
            raise UserError(f"--by belongs to a folder of pairs, and {recipe} is none", hint="edit the recipe's `by:`")
        run_recipe(recipe, section="select", settings=set_, out=out, resume=resume)
        return
    if not by:
        raise UserError("--by is missing", hint=f"for example mmpo select {recipe} --by length_balance")
    typed = ["mmpo", "select", recipe, *(word for one in by for word in ("--by", one))]
    typed += [word for one in set_ or () for word in ("--set", one)]
    run_recipe(recipe, section="select", settings=set_, out=out, resume=resume, typed=typed, source=_recipe(folder, by))


def _recipe(folder: Path, by: list[str]) -> Any:
    """A recipe of this one section."""
    from mmpo.errors import UserError
    from mmpo.outside import Unreadable
    from mmpo.recipes.source import RecipeSource, parse_value

    steps = []
    for text in by:
        try:
            steps.append(parse_value(text))
        except Unreadable as error:
            raise error.at(f"--by {text}", lines=False) from None
        if not isinstance(steps[-1], str | dict):
            raise UserError(f"--by {text}: no selector", hint="--by 'dual_margin: {keep: 0.1}'")
    return RecipeSource("mmpo select", {"name": "select", "select": {"pairs": str(folder), "by": steps}})
