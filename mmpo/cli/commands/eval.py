"""mmpo eval RECIPE"""

from __future__ import annotations

from mmpo.cli.app import (
    DEFAULT,
    Executor,
    ExecutorOption,
    OutOption,
    RayAddressOption,
    RecipeArgument,
    ResumeOption,
    SetOption,
    ShardOption,
    WorkersOption,
    group,
)


@group("eval").command(DEFAULT)
def evaluate(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    workers: WorkersOption = 1,
    shard: ShardOption = None,
    executor: ExecutorOption = Executor.processes,
    ray_address: RayAddressOption = None,
) -> None:
    """Measure hallucination before and after: the `eval:` section of a recipe.

    The adapter is the one that `mmpo train` left in the same run folder,
    unless the recipe names another or none. Answers and scores are kept in
    DIR/eval.

    [bold]Examples[/bold]

      mmpo eval my.yaml --out runs/mine
      mmpo eval my.yaml --out runs/mine --workers 8   # docs/scaling.md
      mmpo eval my.yaml --set eval.adapter=null      # the model alone
      mmpo eval my.yaml --set eval.adapter=runs/mine/train/adapter
    """
    from mmpo.cli.on_ray import cluster_of
    from mmpo.cli.running import run_recipe

    ray = cluster_of(executor, ray_address, shard)
    run_recipe(recipe, section="eval", settings=set_, out=out, resume=resume, workers=workers, shard=shard, ray=ray)
