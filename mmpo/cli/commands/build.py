"""mmpo build RECIPE"""

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


@group("build").command(DEFAULT)
def build(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    workers: WorkersOption = 1,
    shard: ShardOption = None,
    executor: ExecutorOption = Executor.processes,
    ray_address: RayAddressOption = None,
) -> None:
    """Make preference pairs: the `build:` section of a recipe.

    The pairs are Parquet files in DIR/build/pairs that
    datasets.load_dataset opens as they are. A source that cannot be used is
    listed in rejects.jsonl with the reason. A build that was stopped
    continues, and ends with the same files.

    [bold]Examples[/bold]

      mmpo build my.yaml --out runs/mine
      mmpo build my.yaml --set build.limit=100      # try it on a part first
      mmpo build my.yaml --out runs/mine --workers 8   # docs/scaling.md
    """
    from mmpo.cli.on_ray import cluster_of
    from mmpo.cli.running import run_recipe

    ray = cluster_of(executor, ray_address, shard)
    run_recipe(recipe, section="build", settings=set_, out=out, resume=resume, workers=workers, shard=shard, ray=ray)
