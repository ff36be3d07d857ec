"""Checks of a train section as a whole: objective, scores, groups, weights against the adapter, room."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from mmpo.errors import Quarantined, UserError
from mmpo.models.folder import Tensor, find_model, weights
from mmpo.packages import BITSANDBYTES, TRACKERS, require
from mmpo.preflight.context import MEGABYTE, PreflightContext
from mmpo.preflight.machine import check_dtype
from mmpo.preflight.pictures import LOOKED_AT, check_pictures
from mmpo.preflight.things import check_things
from mmpo.recipes.source import nearest


def check_train(context: PreflightContext) -> None:
    """Objective and its settings, model against number format and adapter, packages, room for checkpoints."""
    settings = context.settings("train")
    check_things(context, "train")
    _check_objective(context)
    if settings.corruption is not None:
        from mmpo.data.corruption import Corruption

        with context.noting(("train", "corruption", "parameters")):
            Corruption(settings.corruption.kind, dict(settings.corruption.parameters))
    if settings.auxiliary is not None and not context.has_error(("train", "auxiliary")):
        _check_auxiliary(context, settings.auxiliary)
    if settings.samples_from is not None and not context.has_error(("train", "samples_from")):
        from mmpo.trainers.views.drawn import read_bank

        if not context.comes(settings.samples_from.data):
            with context.noting(("train", "samples_from", "data")):
                read_bank(settings.samples_from.data)
    if settings.groups is not None and not any(context.has_error(("train", key)) for key in ("groups", "objective")):
        _check_groups(context, settings.groups)
    if settings.quantize == "nf4":
        with context.noting(("train", "quantize")):
            require("nf4", BITSANDBYTES)
    for name in settings.report_to:
        with context.noting(("train", "report_to")):
            require(f"train.report_to: {name}", TRACKERS[name])
    check_dtype(context, ("train", "dtype"), settings.dtype)
    if settings.max_steps is not None and settings.warmup >= settings.max_steps:
        context.warn(
            ("train", "warmup"),
            f"{settings.warmup:g} steps of warm-up in {settings.max_steps} steps: the peak rate is never reached",
            "a share of all steps is below 1, e.g. warmup: 0.05",
        )
    if isinstance(settings.lora.targets, str):
        try:
            re.compile(settings.lora.targets)
        except re.error as error:
            context.error(
                ("train", "lora", "targets"), f"not a regular expression: {error}", "or a list: [q_proj, v_proj]"
            )
    folder = find_model(settings.model)
    if (
        folder is not None
        and not context.has_error(("train", "lora"))
        and not context.has_error(context.given(("train", "model")))
    ):
        check_weights(context, settings, weights(folder, settings.model))
        if not settings.trust_remote_code and not context.has_error(("train", "lora")):
            _check_adapted(context, settings)


def _check_adapted(context: PreflightContext, settings: Any) -> None:
    """The layers that get an adapter, and those of them that a regularizer reads, by the names of the model's modules.
    A model whose modules can't be made without its weights is left to the run."""
    from mmpo.models.families.loading import modules_alone
    from mmpo.trainers.lora import adapted_layers
    from mmpo.trainers.regularizers.pego import check_targets

    try:
        vlm = modules_alone(settings.model)
    except Exception:
        return
    try:
        names = adapted_layers(vlm, settings.lora)
    except UserError as error:
        context.error(("train", "lora", "targets"), error.message.removeprefix("lora.targets: "), error.hint)
        return
    if settings.regularizers is not None and settings.regularizers.pego is not None:
        try:
            check_targets(settings.regularizers.pego, names)
        except UserError as error:
            told = error.message.removeprefix("regularizers.pego: ")
            context.error(("train", "regularizers", "pego", "targets"), told, error.hint)


def _check_scores(context: PreflightContext) -> None:
    """The scores of the pairs that are there already, against what the objective reads."""
    from mmpo.data.reader import read_scores
    from mmpo.objectives.build import build_objective
    from mmpo.trainers.scores import ScoresAlone, check_scores

    settings = context.settings("train")
    objective = build_objective(settings.objective)
    folders = {"pairs": settings.pairs, "eval_pairs": settings.eval_pairs}
    there = {key: folder for key, folder in folders.items() if folder is not None}
    if "scores" not in objective.reads or any(
        context.comes(folder) or context.has_error(("train", key)) for key, folder in there.items()
    ):
        return
    at = ("train", "objective") if settings.scores is None else ("train", "scores")
    with context.noting(at):
        rows = [ScoresAlone(*row) for folder in there.values() for row in read_scores(folder)]
        try:
            check_scores(settings.scores, objective, rows)
        except UserError as error:
            key, _, told = error.message.partition(": ")
            if not key.startswith("scores."):
                raise
            context.error(("train", *key.split(".")), told, error.hint)


def _check_auxiliary(context: PreflightContext, settings: Any) -> None:
    """The first auxiliary samples, and their pictures."""
    from mmpo.trainers.auxiliary import Sample, read_samples

    if context.comes(settings.data):
        return
    at = ("train", "auxiliary", "data")
    with context.noting(at):
        samples = list(islice(read_samples(settings), LOOKED_AT))
        if samples and not any(isinstance(sample, Sample) for sample in samples):
            place, error = next(sample for sample in samples if not isinstance(sample, Sample))
            raise UserError(f"none of the {len(samples)} rows looked at can be learnt; the first is {place}: {error}")
        found = [image for sample in samples if isinstance(sample, Sample) for image in sample.images]
        pictures = [(settings.image_root, image) for image in found if isinstance(image, str)]
        check_pictures(context, at, pictures, settings.allow_links)


def _check_groups(context: PreflightContext, settings: Any) -> None:
    """The first groups of responses, and their pictures."""
    from mmpo.data.responses import ResponseGroup
    from mmpo.objectives.build import build_objective
    from mmpo.trainers.groups import GroupNeeds, check_group_scores, read_scored

    if context.comes(settings.data):
        return
    at = ("train", "groups", "data")
    with context.noting(at):
        groups = [one for one in islice(read_scored(settings), LOOKED_AT) if isinstance(one, ResponseGroup)]
        objective = build_objective(context.settings("train").objective)
        needs, fit, first = GroupNeeds.of(objective, 0), [], None
        for group in groups:
            try:
                needs.check(group)
                fit.append(group)
            except Quarantined as error:
                first = first or error
        if groups and not fit and first is not None:
            raise UserError(f"none of the {len(groups)} groups looked at can be learnt: {first.detail or first.reason}")
        check_group_scores(
            objective, ((one.id, [math.nan if r.score is None else r.score for r in one.responses]) for one in fit)
        )
        pictures = [(settings.data, image) for group in groups for image in group.images if isinstance(image, str)]
        check_pictures(context, at, pictures, False)


def _check_objective(context: PreflightContext) -> None:
    from mmpo.objectives.build import build_objective, spec_mistakes
    from mmpo.objectives.describing import warning
    from mmpo.objectives.registry import OBJECTIVES
    from mmpo.trainers.fitting import objective_problems

    settings = context.settings("train")
    found = spec_mistakes(settings.objective)
    for path, message, hint in found:
        told = message.removeprefix(".".join(path) + " ") if len(path) > 1 else message
        context.error(("train", "objective", *path), told, hint)
    if not found:
        with context.noting(("train", "objective")):
            for key, message, hint in objective_problems(settings, build_objective(settings.objective)):
                context.error(("train", key), message, hint)
        for name, given in settings.objective.items():
            values = given if isinstance(given, Mapping) else {}
            if doubt := warning(OBJECTIVES[name], values):
                context.warn(("train", "objective", name, "beta"), doubt)
        if not context.has_error(("train", "objective")) and not context.has_error(("train", "scores")):
            _check_scores(context)


def check_weights(context: PreflightContext, settings: Any, stored: dict[str, Tensor]) -> None:
    """The adapter, by the names and shapes of the model's weights, and the room that it takes."""
    floats = [tensor for tensor in stored.values() if tensor.dtype in ("F16", "BF16", "F32")]
    if settings.dtype == "auto" and floats and all(tensor.dtype == "F16" for tensor in floats):
        context.error(
            ("train", "dtype"), "the model's weights are float16, which overflows in training", "dtype: bfloat16"
        )
    matrices = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in stored.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and not re.search(r"lm_head|embed", name)
    }
    tower = re.compile(r"vision|visual|image|projector|connector")
    layers = {name: shape for name, shape in matrices.items() if ".layers." in name and not tower.search(name)}
    leaves = sorted({name.rsplit(".", 1)[-1] for name in layers})
    targets = settings.lora.targets
    if isinstance(targets, list) and leaves:
        for number, target in enumerate(targets):
            if target not in leaves:
                context.error(
                    ("train", "lora", "targets", str(number)),
                    f"no linear layer is called {target} in the language model",
                    nearest(target, leaves),
                )
    if isinstance(targets, list):
        chosen = [shape for name, shape in layers.items() if name.rsplit(".", 1)[-1] in targets]
    elif targets in ("language_model", "all"):
        chosen = list((layers if targets == "language_model" else matrices).values())
    else:  # files name some modules otherwise than the model does, so a pattern that fits none here is no mistake
        chosen = [shape for name, shape in matrices.items() if re.search(targets, name)]
    adapter = 4 * settings.lora.rank * sum(sum(shape) for shape in chosen)
    if settings.lora.rank > max((min(shape) for shape in chosen), default=settings.lora.rank):
        context.warn(("train", "lora", "rank"), f"rank {settings.lora.rank} is more than any adapted matrix has")
    # An adapter, and checkpoints of it with two moments each: one is always written, one more while the oldest goes.
    context.bytes["train"] = (4 * adapter, (1 + 3 * (settings.keep_checkpoints + 1)) * adapter + 5 * MEGABYTE)
