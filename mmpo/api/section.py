"""One section of a recipe, given as Python values, done in a run folder: what `mmpo build`, `train` and `eval` do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mmpo.api.showing import showing
from mmpo.errors import UserError
from mmpo.locks import announce, locked, private_files
from mmpo.pipeline import check_section, open_run, run_section
from mmpo.preflight import examine
from mmpo.recipes import Recipe
from mmpo.recipes.source import RecipeSource, parse
from mmpo.run_log import logging_into
from mmpo.runs import RunFolder, choose_folder, is_main_process
from mmpo.storage import storage_error

Before = Callable[[RunFolder], None]


def run(
    section: str, settings: Mapping[str, Any], *, called: str, out: str | Path | None, before: Before | None = None
) -> tuple[RunFolder, dict[str, Any]]:
    """Do a section in the run folder `out` (a new `runs/CALLED-TIME` where None) and return its folder and its result.

    What other sections the run has stays in its recipe. A section that is complete there with the same settings is
    taken as it is; a stopped one continues. `before` does a step of its own in the open run first. `called` names
    the function in errors. Raises one `UserError` for all mistakes in the settings, before anything is written.
    """
    if out is not None and not isinstance(out, str | Path):
        raise UserError(f"mmpo.{called}: out must be a folder, not {type(out).__name__}")
    folder = RunFolder(choose_folder(called, out=None if out is None else Path(out), resume=False))
    source = _recipe(folder, section, settings, called)
    finished = [section] if folder.step(section).state == "complete" else []
    recipe, told = examine(source, run=folder.path, sections=(section,), finished=finished)
    check_section(folder, recipe, section, coming=("pairs",) if before is not None else ())
    if is_main_process():
        for text in told:
            warnings.warn(text, stacklevel=3)
    with _session(folder, recipe):
        if before is not None:
            before(folder)
        result = run_section(folder, recipe, section)
        folder.write_results(recipe.sections())
    return folder, result


def _recipe(folder: RunFolder, section: str, settings: Mapping[str, Any], called: str) -> RecipeSource:
    """The run's recipe with this section in the place of what it had."""
    file = folder.path / "recipe.yaml"
    data: dict[str, Any] = {}
    if file.is_file():
        data = parse(file.read_text(encoding="utf-8"), str(file)).data
    data.setdefault("name", called)
    return RecipeSource(f"mmpo.{called}", {**data, section: _plain(settings, called)})


def _plain(value: Any, called: str) -> Any:
    """Settings as a recipe writes them. Raises `UserError` for a value that no recipe can hold."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, called) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, called) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise UserError(
        f"mmpo.{called}: {str(value)[:80]!r} is a {type(value).__name__}, which no setting can be",
        hint="settings are what a recipe holds: texts, numbers, truth values, lists and maps of them, paths",
    )


@contextmanager
def _session(folder: RunFolder, recipe: Recipe) -> Iterator[None]:
    """The open run: locked, logged, its progress shown."""
    with private_files(), locked(folder.path) as before:
        folder.path.mkdir(parents=True, exist_ok=True)
        if not is_main_process():
            with logging_into(folder.path / "run.other-processes.log"):
                yield
            return
        open_run(folder, recipe)
        with showing(), logging_into(folder.path / "run.log"):
            announce(folder.path, before)
            try:
                yield
            except UserError:
                raise
            except Exception as error:
                if told := storage_error(error, folder.path):
                    raise told from error
                raise
