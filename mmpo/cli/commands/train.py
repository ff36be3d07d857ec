"""mmpo train RECIPE"""

from __future__ import annotations

from typing import Annotated

import typer

from mmpo.cli.app import DEFAULT, OutOption, RecipeArgument, ResumeOption, SetOption, group


@group("train").command(DEFAULT)
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    cache_reference: Annotated[
        bool,
        typer.Option(
            "--cache-reference",
            help="Compute the reference model's log-probs once and keep them with the pairs, for this and later "
            "runs. The same as train.cache_reference=true.",
        ),
    ] = False,
) -> None:
    """Train an adapter on preference pairs: the `train:` section of a recipe.

    The pairs are those that `mmpo build` left in the same run folder, unless
    the recipe names others. Training that was stopped continues at its last
    checkpoint. The adapter is in DIR/train/adapter; peft opens it as it is.

    [bold]Examples[/bold]

      mmpo train my.yaml --out runs/mine
      mmpo train my.yaml --out runs/b05 --set train.objective.dpo.beta=0.5 \\
          --set train.pairs=runs/mine/build/pairs
      accelerate launch -m mmpo train my.yaml --out runs/mine
    """
    from mmpo.cli.running import run_recipe

    if cache_reference:
        set_ = [*(set_ or []), "train.cache_reference=true"]
    run_recipe(recipe, section="train", settings=set_, out=out, resume=resume)
