"""Checks made before any work starts: the recipe, the objective, every path, models and adapters, the files that
builders and benchmarks need, packages, judges, disk and device. All mistakes are reported at once.

    recipe, warnings = examine(source, run=Path("runs/mine"), inputs={})

`sections.py` checks build, train and eval as a whole, `rounds.py` their rounds, `things.py` the things that a field
names (`mmpo.settings.Need`), `machine.py` what this machine must have, `commands.py` the same look for commands without
a recipe. Requirements are kept with their owner: in the annotations of settings and of losses, in every builder's
`entry.py`, in the benchmarks' own constructors, in `mmpo.models.folder` and `mmpo.packages`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from mmpo.preflight.context import PreflightContext
from mmpo.preflight.machine import check_room
from mmpo.preflight.rounds import check_rounds
from mmpo.preflight.sections import CHECKS
from mmpo.recipes import Recipe, prepare
from mmpo.recipes.problems import Problem, in_order, refusal
from mmpo.recipes.schema import tolerant
from mmpo.recipes.source import RecipeSource


def examine(
    source: RecipeSource,
    *,
    run: Path,
    inputs: Mapping[str, Callable[[], str]] | None = None,
    sections: Sequence[str] | None = None,
    finished: Collection[str] = (),
) -> tuple[Recipe, list[str]]:
    """The recipe of `source`, and warnings. Raises one `UserError` that lists every mistake.

    `sections` are those that will run (all, where None), `finished` those among them that are complete in `run`, whose
    files may be gone. What earlier sections leave in `run` need not be there yet.
    """
    prepare(source, run=run, inputs=inputs)
    recipe, problems = tolerant(source)
    if recipe is not None:
        chosen = [name for name in recipe.sections() if sections is None or name in sections]
        left = [name for name in chosen if name not in finished]
        context = PreflightContext(source=source, recipe=recipe, run=run, sections=left)
        for name in context.sections:
            CHECKS[name](context)
        check_rounds(context)
        check_room(context, run, context.bytes)
        problems = [*problems, *context.problems]
    mistakes = [problem for problem in problems if problem.error]
    if mistakes or recipe is None:
        raise refusal(source, mistakes)
    return recipe, [problem.text(source) for problem in in_order(source, problems)]


__all__ = ["Problem", "examine"]
