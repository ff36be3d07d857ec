"""The same checks for commands without a recipe: every mistake at once, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.data.convert.rows import row_files
from mmpo.errors import UserError
from mmpo.models.folder import check_adapter, check_fit, find_model, header, no_such_model, stored_bytes, weights
from mmpo.preflight.context import Findings
from mmpo.preflight.machine import check_chat, check_room
from mmpo.preflight.things import check_path, check_vision_model, check_writable
from mmpo.recipes.problems import Problem, listed
from mmpo.settings import FILE, FOLDER, PATH

if TYPE_CHECKING:
    from mmpo.chat import ChatSettings
    from mmpo.data.convert.look import FirstRows
    from mmpo.eval.scoring import Scorer, ScoreRequest

READ_TWICE = 200_000_000
"""Bytes of a JSON file up to which it is read for a look at its first rows, and again for the conversion."""


def examine_convert(
    source: Path,
    out: Path,
    *,
    source_format: str | None,
    out_format: str,
    images: str | Path | None,
    media: str | None,
    split: str,
    options: Mapping[str, Any] | None,
    overwrite: bool,
    allow_links: bool = False,
) -> list[str]:
    """Checks for `mmpo convert`: formats and their options, IN, OUT, the folder of images and the first pictures, room
    on the disk. Returns warnings. Raises one `UserError` that lists every mistake."""
    images, options = None if images is None else Path(images), options or {}
    from mmpo.data.convert.look import look
    from mmpo.data.convert.run import check_places, format_named, media_mode, options_of

    found, mode = Findings(), ""
    with found.noting(()):
        mode = media_mode(format_named(out_format, "write"), media)
    if source_format is not None:
        with found.noting(()):
            options_of(format_named(source_format, "read"), options)
    with found.noting(()):
        check_path(source, PATH)
    if images is not None:
        with found.noting(("--images",)):
            check_path(images, FOLDER)
    with found.noting(()):
        check_places(source, out, overwrite)
        check_writable(out)
    stored = {file: file.stat().st_size for file in _files(source, split)}
    if found.problems or max((size for file, size in stored.items() if file.suffix == ".json"), default=0) > READ_TWICE:
        return _told(found)
    with found.noting(()):
        seen = look(source, images, source_format, split, options, allow_links=allow_links)
        _check_pictures(found, source, seen)
        rows = sum(stored.values())
        pictures = 0 if mode == "reference" else int(seen.bytes_each * rows / max(seen.row_bytes, 1))
        check_room(found, out, {"rows": (rows // 10, rows), "pictures": (0, pictures)}, what="OUT", otherwise="OUT")
    return _told(found)


def _files(source: Path, split: str) -> list[Path]:
    """The files of a source whose rows will be read; none where `look` will report that there are none."""
    if not source.is_dir():
        return [source] if source.is_file() else []
    try:
        return row_files(source, split)
    except UserError:
        return []


def _check_pictures(found: Findings, source: Path, seen: FirstRows) -> None:
    """Check the pictures of the first rows, where more follow: for a few rows the conversion itself is soon enough."""
    if not seen.more or not seen.missing:
        return
    first = f"the first is {seen.first_missing}"
    if seen.missing == seen.pictures:
        found.error(
            (),
            f"{source}: none of the {seen.pictures} pictures of its first rows can be opened; {first}",
            f"paths start in {seen.root}; --images DIR names another folder, --allow-links follows links out of it",
        )
    else:
        found.warn((), f"{seen.missing} of the {seen.pictures} pictures of the first rows can't be opened; {first}")


def examine_export(run: Path, out: Path, *, merge: bool) -> list[str]:
    """Checks for `mmpo export`: a finished training, its adapter, with `merge` the model and that the two fit, the new
    folder and room for it. Returns warnings. Raises one `UserError` that lists every mistake."""
    from mmpo.outside import json_of
    from mmpo.trainers.export import check_unused, finished, import_plugins
    from mmpo.trainers.serving_check import high_rank

    found = Findings()
    with found.noting(()):
        check_unused(out)
        check_writable(out)
    with found.noting(()):
        training = finished(run)
        check_adapter(training.adapter)
        written = stored_bytes(header(training.adapter / "adapter_model.safetensors"))
        if not merge and (rank := high_rank(json_of((training.adapter / "adapter_config.json").read_text()))):
            found.warn(
                (), f"the adapter has rank {rank}; vLLM takes up to 16 unless it is started with --max-lora-rank {rank}"
            )
        settings = training.settings
        if merge:
            import_plugins(training)
        if merge and (folder := find_model(settings.model)) is not None:
            check_vision_model(folder, settings.model, trust_remote_code=settings.trust_remote_code)
            check_fit(training.adapter, folder, settings.model)
            written = stored_bytes(weights(folder, settings.model))
        elif merge and settings.allow_network:
            found.warn((), f"{settings.model} is not on this machine and will be fetched from the hub")
        elif merge:
            raise no_such_model(settings.model)
        elif Path(settings.model).absolute().is_relative_to(training.folder.parent.absolute()):
            found.warn(
                (), f"the adapter belongs on {settings.model}, the model of the round before; --merge joins them"
            )
        check_room(found, out, {"weights": (written, written)}, what="OUT", otherwise="OUT")
    return _told(found)


def examine_score(
    benchmark: str, request: ScoreRequest, *, judge: ChatSettings | None = None, replies: Path | None = None
) -> tuple[Scorer, list[str]]:
    """Checks for `mmpo eval score`: the benchmark's parser, options and packages, its files, and the judge. Raises one
    `UserError` that lists every mistake; else returns the benchmark's scorer, and warnings."""
    from mmpo.eval.scoring import checked, scorers

    found = Findings()
    for option, path in (
        ("--answers", request.answers), ("--questions", request.questions), ("--annotations", request.annotations)
    ):  # fmt: skip
        if path is not None:
            with found.noting((option,)):
                check_path(path, PATH)
    with found.noting(()):
        checked(benchmark, request, judged=judge is not None)
    if judge is not None:
        check_chat(found, ("--judge",), judge)
        if replies is not None:
            with found.noting(("--judge-cache",)):
                check_path(replies, FILE) if replies.is_dir() else check_writable(replies.parent)
    warnings = _told(found)
    return scorers()[benchmark], warnings


def _told(found: Findings) -> list[str]:
    """The warnings; raises where there are mistakes."""
    problems = list(dict.fromkeys(found.problems))
    if mistakes := [problem for problem in problems if problem.error]:
        raise listed(mistakes, _text)
    return [_text(problem) for problem in problems]


def _text(problem: Problem) -> str:
    name = " ".join(problem.path)
    line = f"{name}: {problem.message}" if name else problem.message
    return line + (f"\n  hint: {problem.hint}" if problem.hint else "")
