"""Checks of build, select and eval as a whole, beyond what single fields name; `CHECKS` has all four sections."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.reader import shard_paths
from mmpo.errors import UserError
from mmpo.preflight.context import MEGABYTE, PreflightContext
from mmpo.preflight.machine import check_dtype
from mmpo.preflight.pictures import LOOKED_AT, check_pictures
from mmpo.preflight.things import check_things
from mmpo.preflight.training import check_train
from mmpo.recipes import OUTPUTS


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
    key = source_key(settings)
    found: list[tuple[Path, str]] = []
    with context.noting(("build", key)):
        found = list(look(settings))
    links, films = getattr(settings, "allow_links", False), settings.builder == "radiology"
    sizes = check_pictures(context, ("build", key), found, links, films=films)
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


def source_key(settings: Any) -> str:
    keys = ("annotations", "data", "videos", "reports", "candidates", "images")
    return next((key for key in keys if hasattr(settings, key)), "builder")


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


def check_eval(context: PreflightContext) -> None:
    """The benchmarks, made as the evaluation makes them: from their files and the annotated images."""
    from mmpo.eval.context import VOCABULARY
    from mmpo.eval.section import sections

    settings = context.settings("eval")
    unused = {name for name in sections() if name not in settings.benchmarks}
    if settings.annotations is not None:
        unused -= {VOCABULARY}  # it names the objects
    if settings.sampler is None:
        check_dtype(context, ("eval", "dtype"), settings.dtype)
    else:
        unused |= {"model"}  # it is the server's
    check_things(context, "eval", without=unused)
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
        check_pictures(context, at, pictures, getattr(settings, "allow_links", False))
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
        check_pictures(context, ("eval", name), pictures, links, films=found.films)


CHECKS: dict[str, Callable[[PreflightContext], None]] = {
    "build": check_build,
    "select": check_select,
    "train": check_train,
    "eval": check_eval,
}
