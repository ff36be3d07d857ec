"""mmpo run RECIPE"""

from __future__ import annotations

from mmpo.cli.app import OutOption, RecipeArgument, ResumeOption, SetOption, WorkersOption, app


@app.command()
def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    workers: WorkersOption = 1,
) -> None:
    """Run every section of a recipe: build, train, eval.

    Steps that are complete in the run folder are not done again, and a
    stopped step continues where it was: to resume, run the same command on
    the same folder. With `rounds: 3` the sections run three times, each time
    with the model of the time before. With `--workers 8` the pairs are built
    and the answers given by eight processes; training is one process.

    [bold]Examples[/bold]

      mmpo recipe show own-images > my.yaml    # then edit the paths in it
      mmpo run my.yaml --out runs/mine
      mmpo run my.yaml --resume                # continue its latest run
      mmpo run my.yaml --set rounds=3          # docs/rounds.md
    """
    from mmpo.cli.running import run_recipe

    run_recipe(recipe, settings=set_, out=out, resume=resume, workers=workers)
