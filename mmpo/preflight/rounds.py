"""Checks of a recipe with rounds: that every round differs from the one before, that what ends them early is measured,
and room for the whole models between them."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.stopping import WATCHED, metric_key
from mmpo.models.folder import find_model, stored_bytes, weights
from mmpo.preflight.context import PreflightContext
from mmpo.recipes.in_round import in_round
from mmpo.recipes.rounds import RoundsSettings
from mmpo.recipes.source import KeyPath as Keys
from mmpo.recipes.source import nearest
from mmpo.trainers.settings import TrainSettings


def check_rounds(context: PreflightContext) -> None:
    """What rounds need beyond what each section does."""
    recipe = context.recipe
    rounds, train = recipe.rounds, recipe.train
    if rounds is None:
        return
    if recipe.build is None or train is None:
        missing = "build" if recipe.build is None else "train"
        if context.source.data.get(missing) is None:  # else it is wrong, which is told
            context.error(("rounds",), f"rounds build pairs and train on them, and there is no `{missing}:` section")
        return
    _check_models(context, train)
    _check_reference(context, rounds, train)
    if train.resume is False:
        context.error(
            ("train", "resume"),
            "false trains every round again each time, and later rounds were made from what was there",
            "leave it out; another --out starts anew",
        )
    _check_stop(context, rounds)
    _check_merge(context, rounds, train)


def _check_models(context: PreflightContext, train: TrainSettings) -> None:
    """One model is trained, builds and is measured, and what is trained on and measured is the round's own."""
    recipe, run, build = context.recipe, context.run, context.settings("build")
    built: Any = getattr(build, "model", None)
    if built is None:
        context.error(
            ("rounds",),
            f"the builder {build.builder} asks no model here, so that every round would make the same pairs",
            "name a model under build:, or leave rounds out",
        )
    pairs: list[tuple[Keys, Any, str]] = [(("train", "pairs"), train.pairs, "build")]
    models: list[tuple[Keys, Any]] = [(("build", "model"), built)] if built is not None else []
    if recipe.eval is not None:
        pairs.append((("eval", "adapter"), recipe.eval.adapter, "train"))
        models.append((("eval", "model"), recipe.eval.model))
        if recipe.eval.before is not None:
            context.error(("eval", "before"), "in rounds it is the recipe's own model", "leave it out")
    for path, value in models:
        if value != train.model:
            context.error(
                context.given(path), f"rounds go on with the model that is trained, {train.model}, and this is {value}",
                "name one model at the top of the recipe",
            )  # fmt: skip
    for path, value, section in pairs:
        if value is None or not Path(value).absolute().is_relative_to(run.absolute()):
            context.error(
                path, f"is the same in every round (it is {value})", f"leave it out: it is what {section} makes"
            )


def _check_reference(context: PreflightContext, rounds: RoundsSettings, train: TrainSettings) -> None:
    """The reference is that of `rounds`, and the objective takes it."""
    from mmpo.objectives.build import build_objective
    from mmpo.trainers.fitting import objective_problems

    given = train.reference
    if given is not None and given.moving is None:
        context.error(("train", "reference"), "rounds.reference decides the reference", "leave one of them out")
        return
    later = in_round(context.recipe, context.run, 2).train
    assert later is not None
    if given is not None and later.reference != given:
        context.error(
            ("train", "reference", "moving"),
            f"a moving reference starts as the model that a round trains, and rounds.reference: {rounds.reference} "
            f"with train_from: {rounds.train_from} is another",
            "reference: previous with train_from: previous, or fixed with base",
        )
        return
    if rounds.number > 1 and not context.has_error(("train", "objective")) and later.reference is not None:
        with context.noting(("rounds", "reference")):
            for _, message, hint in objective_problems(later, build_objective(train.objective)):
                raise UserError(message, hint=hint)


def _check_stop(context: PreflightContext, rounds: RoundsSettings) -> None:
    """What `stop` watches is measured."""
    recipe, stop = context.recipe, rounds.stop
    if stop is None:
        return
    if recipe.eval is None:
        if context.source.data.get("eval") is None:
            context.warn(("rounds",), "without an `eval:` section nothing ends the rounds early, and none is measured")
        return
    asked = recipe.eval.benchmarks
    for kind, known in WATCHED.items():
        name = getattr(stop, kind)
        if name is not None and (benchmark := metric_key(name)[0]) not in asked:
            context.error(
                ("rounds", "stop", kind), f"{name}: {benchmark} is not among eval.benchmarks", nearest(benchmark, asked)
            )
        elif name is not None and (known_here := _measured(context, benchmark)) and name not in known_here:
            hint = nearest(name, known_here)
            context.error(("rounds", "stop", kind), f"{benchmark} does not measure {name.partition('.')[2]}", hint)
        elif name is None and not any(metric_key(one)[0] in asked for one in known):
            context.warn(
                ("rounds", "stop"),
                f"no benchmark here is known to measure {kind}, so it ends no round",
                f"name a metric (rounds.stop.{kind}: BENCHMARK.METRIC), or add one of "
                + ", ".join(dict.fromkeys(metric_key(one)[0] for one in known)),
            )


def _measured(context: PreflightContext, benchmark: str) -> list[str]:
    """The metrics of a benchmark, as it counts them where every answer is empty; none where that cannot be known
    before: its pictures are still to come, or a text model judges."""
    from mmpo.eval.context import context_of
    from mmpo.eval.protocol import Response
    from mmpo.eval.task import JudgedTask, named
    from mmpo.preflight.sections import annotated_images

    settings = context.settings("eval")
    annotations = settings.annotations
    if context.has_error(("eval",)) or (annotations is not None and context.comes(annotations)):
        return []
    with tempfile.TemporaryDirectory(prefix="mmpo-") as scratch, suppress(Exception):
        shared = context_of(settings, annotated_images(context), scratch, look=True)
        task = named(benchmark).ready(settings.of(benchmark), shared)
        if not isinstance(task, JudgedTask):
            parts = task.score({request: Response("", False) for request in task.requests()})
            names = [(benchmark, part.split, metric.name) for part in parts for metric in part.tally.metrics]
            return [".".join(filter(None, name)) for name in names]
    return []  # a benchmark may refuse answers that are none


def _check_merge(context: PreflightContext, rounds: RoundsSettings, train: TrainSettings) -> None:
    """Room for a whole model between every two rounds."""
    between, folder = rounds.number - 1, find_model(train.model)
    if train.quantize != "none" and between:
        context.warn(
            ("train", "quantize"),
            "each round's adapter is merged into the weights as they are stored, and these are quantized anew",
        )
    if folder is None or context.has_error(context.given(("train", "model"))) or not between:
        return
    with context.noting(context.given(("train", "model"))):
        each = stored_bytes(weights(folder, train.model))
        done = sum((context.run / f"merge-{number}" / "model").is_dir() for number in range(1, between + 1))
        context.bytes["merged models"] = (0, 0) if done == between else (each, (between - done) * each)
