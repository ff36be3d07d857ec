"""Checks of build, select, train and eval as a whole, beyond what single fields name."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.reader import shard_paths
from mmpo.errors import Quarantined, UserError
from mmpo.files.paths import inside
from mmpo.models.folder import Tensor, find_model, weights
from mmpo.packages import BITSANDBYTES, PYDICOM, require
from mmpo.preflight.context import PreflightContext
from mmpo.preflight.machine import check_dtype
from mmpo.preflight.things import check_things
from mmpo.recipes import OUTPUTS
from mmpo.recipes.source import nearest

LOOKED_AT = 200
"""Pictures of a source whose files are looked for."""
MEGABYTE = 1_000_000


def check_build(context: PreflightContext) -> None:
    """The source, read by the builder's own reader, and its pictures."""
    from mmpo.data_builders.builders import look

    settings = context.settings("build")
    check_things(context, "build")
    if getattr(settings, "model", None) is not None and hasattr(settings, "dtype"):
        check_dtype(context, ("build", "dtype"), settings.dtype)
    _check_makes_pairs(context)
    drawn = [value for value in settings.model_dump(mode="python").values() if _path_to_come(context, value)]
    if drawn or context.has_error(("build",)):
        return
    key = _source_key(settings)
    found: list[tuple[Path, str]] = []
    with context.noting(("build", key)):
        found = list(look(settings))
    links, films = getattr(settings, "allow_links", False), settings.builder == "radiology"
    sizes = _check_pictures(context, ("build", key), found, links, films=films)
    if sizes:
        mean = sum(sizes) / len(sizes)
        context.bytes["build"] = (MEGABYTE, int(1.3 * mean * len(found)) + 20 * MEGABYTE)


def _check_makes_pairs(context: PreflightContext) -> None:
    """A training on the build's pairs needs a build that makes some."""
    train = context.recipe.train
    if train is None or getattr(context.settings("build"), "pairs", ...) is not None:
        return
    if Path(train.pairs).absolute() == (context.run / OUTPUTS["build.pairs"]).absolute():
        context.error(
            ("build", "pairs"),
            "missing: the build makes candidates alone, and `train` learns from its pairs",
            "for example pairs: {maker: best_worst}, or train.pairs: FOLDER",
        )


def _path_to_come(context: PreflightContext, value: Any) -> bool:
    return isinstance(value, str | Path) and str(value) != "" and context.comes(value)


def _source_key(settings: Any) -> str:
    keys = ("annotations", "data", "videos", "reports", "candidates", "images")
    return next((key for key in keys if hasattr(settings, key)), "builder")


def _check_pictures(
    context: PreflightContext,
    key: tuple[str, ...],
    pictures: Sequence[tuple[Path, str]],
    links: bool,
    *,
    films: bool = False,
) -> list[int]:
    """Sizes of the files among the first pictures. None there at all is an error, some missing a warning. `films` may
    be DICOM files."""
    looked = pictures[:LOOKED_AT]
    sizes: list[int] = []
    first: tuple[str, str | None] | None = None
    for root, path in looked:
        try:
            file = inside(root, path, links=links)
            if not file.exists():
                raise Quarantined("decode", "missing", path)
            sizes.append(file.stat().st_size)
            if films and not PYDICOM.here and _is_dicom(file):
                context.error(key, f"{path} is a DICOM film, which needs the package pydicom", PYDICOM.install)
                films = False
        except Quarantined as error:
            first = first or (f"{error.reason}: {error.detail}", _picture_hint(error, root))
        except OSError as error:
            first = first or (f"{path}: {error.strerror}", None)
    if looked and not sizes and first is not None:
        context.error(
            key, f"none of the {len(looked)} pictures looked at can be opened; the first is {first[0]}", first[1]
        )
    elif first is not None:
        missing = len(looked) - len(sizes)
        context.warn(key, f"{missing} of {len(looked)} pictures looked at can't be opened; the first is {first[0]}")
    return sizes


def _is_dicom(file: Path) -> bool:
    from mmpo.radiology.films import is_dicom

    with open(file, "rb") as stream:
        return is_dicom(stream.read(132))


def _picture_hint(error: Quarantined, root: Path) -> str:
    if error.reason == "path_escape":
        return "pictures lie below the folder of images; links out of it need allow_links: true"
    return f"paths start in {root}: is that the folder of the pictures?"


def check_select(context: PreflightContext) -> None:
    """What the selectors read: the scores of the pairs, and log-probs from somewhere."""
    from mmpo.select.logps import missing_in
    from mmpo.select.run import origin_of
    from mmpo.select.scan import score_names, stored_as
    from mmpo.select.table import SCORES

    settings = context.settings("select")
    check_things(context, "select", without=() if settings.logps_read() and settings.logps is None else ("model",))
    check_dtype(context, ("select", "dtype"), settings.dtype)
    if context.has_error(("select", "pairs")):
        return
    comes = context.comes(settings.pairs)
    scores = None if comes else score_names(settings.pairs)
    with context.noting(("select", "by")):
        origin_of(settings, scores)
    if settings.logps is not None and not context.has_error(("select", "logps")) and not context.comes(settings.logps):
        with context.noting(("select", "logps")):
            if lacking := missing_in(settings.logps, settings.logps_read()):
                raise UserError(f"{settings.logps} has no column {lacking[0]!r}, which select.by reads")
    for number, step in enumerate(settings.steps()):
        for column in dict.fromkeys(step.selector.reads()):
            if scores is not None and column.startswith(SCORES) and stored_as(column, scores) is None:
                context.error(
                    ("select", "by", str(number), step.name),
                    f"the pairs have no score {column.removeprefix(SCORES)!r}",
                    f"they have {', '.join(scores)}" if scores else "they have no scores at all",
                )
    if not comes:
        stored = sum(path.stat().st_size for path in shard_paths(settings.pairs, "train"))
        context.bytes["select"] = (0, stored)


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
        _check_pictures(context, at, pictures, settings.allow_links)


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
        _check_pictures(context, at, pictures, False)


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


def check_eval(context: PreflightContext) -> None:
    """The benchmarks, made as the evaluation makes them: from their files and the annotated images."""
    from mmpo.eval.context import VOCABULARY
    from mmpo.eval.section import sections

    settings = context.settings("eval")
    unused = {name for name in sections() if name not in settings.benchmarks}
    if settings.annotations is not None:
        unused -= {VOCABULARY}  # it names the objects
    check_things(context, "eval", without=unused)
    check_dtype(context, ("eval", "dtype"), settings.dtype)
    if any(_path_to_come(context, value) for value in (settings.annotations, settings.of(VOCABULARY).vocabulary)):
        annotated, ready = None, False
    else:
        annotated, ready = annotated_images(context), True
    with tempfile.TemporaryDirectory(prefix="mmpo-") as scratch:
        for name in settings.benchmarks:
            if ready and not context.has_error(("eval", name)):
                _check_benchmark(context, name, annotated, Path(scratch))
    context.bytes["eval"] = (0, 5 * MEGABYTE)


def annotated_images(context: PreflightContext) -> Sequence[AnnotatedImage] | None:
    """The annotated images of the evaluation, with a look at their pictures."""
    from mmpo.data.annotations.read import read_annotations

    settings = context.settings("eval")
    at = ("eval", "annotations")
    if settings.annotations is None or context.has_error(at) or context.has_error(("eval", "images")):
        return None
    with context.noting(at):
        images = list(islice(read_annotations(settings.annotations, images=settings.images), settings.limit))
        if not images:
            raise UserError(f"{settings.annotations} lists no images")
        pictures = [(Path(image.root), image.path) for image in images]
        _check_pictures(context, at, pictures, getattr(settings, "allow_links", False))
        return images
    return None


def _check_benchmark(
    context: PreflightContext, name: str, annotated: Sequence[AnnotatedImage] | None, scratch: Path
) -> None:
    from mmpo.eval.context import context_of
    from mmpo.eval.task import named

    settings = context.settings("eval")
    found, own = named(name).task, settings.of(name).model_dump(mode="python")
    if any(
        _path_to_come(context, value) for one in own.values() for value in (one if isinstance(one, list) else [one])
    ):
        return
    if annotated is None and context.has_error(("eval", "annotations")):
        return
    if found.looks == "settings":
        if annotated is None:
            context.error(("eval", "benchmarks"), f"{name} is built from annotated images", "set eval.annotations")
        return
    with context.noting(("eval", name)):
        benchmark = found(settings.of(name), context_of(settings, annotated, str(scratch), look=True))
        if found.looks == "files" or (annotated is not None and not own.get("questions")):
            return
        requests = list(islice((request for request in benchmark.requests() if request.image is not None), LOOKED_AT))
        folder = settings.images or (str(annotated[0].root) if annotated else "")
        pictures = [(Path(request.root or folder), request.paths[0]) for request in requests if request.root or folder]
        links = getattr(settings, "allow_links", False)
        _check_pictures(context, ("eval", name), pictures, links, films=found.films)


CHECKS: dict[str, Callable[[PreflightContext], None]] = {
    "build": check_build,
    "select": check_select,
    "train": check_train,
    "eval": check_eval,
}


def summary(context_sections: Iterable[str], recipe: Any) -> list[str]:
    """One line a section: what will be done with what."""
    lines = []
    for name in context_sections:
        settings = getattr(recipe, name)
        if name == "build":
            source = getattr(settings, _source_key(settings))
            given = f" from {source}" if source != settings.builder else ""
            limit = f", the first {settings.limit}" if getattr(settings, "limit", None) else ""
            model = f"; model {settings.model}" if getattr(settings, "model", None) else ""
            lines.append(f"build  {settings.builder}{given}{limit}{model}")
        elif name == "select":
            steps = ", ".join(step.name for step in settings.steps())
            model = f"; scored by {settings.model}" if settings.logps_read() and settings.logps is None else ""
            lines.append(f"select {steps} among {settings.pairs}{model}")
        elif name == "train":
            terms = ", ".join(
                f"{term} {json.dumps(given)}" if given else term for term, given in settings.objective.items()
            )
            length = f"{settings.max_steps} steps" if settings.max_steps else f"{settings.epochs:g} epochs"
            lines.append(
                f"train  {terms}; {length} of {settings.batch_size * settings.accumulation} pairs, learning rate "
                f"{settings.learning_rate:g}, rank {settings.lora.rank}, {settings.dtype}"
            )
        else:
            adapter = "with and without the adapter" if settings.adapter else "the model alone"
            if settings.before and settings.compare:
                adapter = f"{'with the adapter' if settings.adapter else 'the model'}, and {settings.before} before"
            lines.append(f"eval   {', '.join(settings.benchmarks)}; {adapter}")
    if recipe.rounds is not None:
        rounds = recipe.rounds
        start = "the model of the round before" if rounds.train_from == "previous" else "the recipe's model"
        fixed = "the recipe's model" if rounds.reference == "fixed" else "the model of the round before"
        lines.append(f"rounds {rounds.number}, each trained from {start}; reference {fixed}")
    return lines
