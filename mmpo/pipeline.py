"""Runs the sections of a recipe, one after another, in a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from mmpo import plugins
from mmpo.errors import UserError
from mmpo.files.atomic import read_json
from mmpo.models.folder import find_model
from mmpo.recipes import Recipe, dump
from mmpo.resuming import deciding
from mmpo.runs import RunFolder, process_count

STAGES = {
    "build": "mmpo.data_builders.builders:build",
    "select": "mmpo.select.run:select",
    "train": "mmpo.trainers.train:train",
    "eval": "mmpo.eval.harness:evaluate",
}
"""The function that does a section: `function(settings, run_dir) -> result`. Imported late, for it brings torch."""


def open_run(run: RunFolder, recipe: Recipe) -> None:
    """Make the run folder for `recipe`, with its resolved text and the versions."""
    run.open(dump(recipe.model_dump(mode="json", exclude_none=True, exclude_unset=True)))


def check_section(
    run: RunFolder, recipe: Recipe, section: str, *, name: str | None = None, coming: Collection[str] = ()
) -> None:
    """Raises UserError if the recipe has no `section`, or it was begun otherwise, or what it needs is not there.

    `name` is its step (and folder) where that is not called as the section, `coming` are steps that will be done
    before it.
    """
    settings = section_settings(recipe, section)
    step = run.step(name or section)
    if not starts_over(recipe, section):
        step.check(settings)
    for needed in step.needs(settings):
        if needed not in coming and run.step(needed).state != "complete":
            raise UserError(
                f"{step.name} uses what {needed} makes, and {needed} is not complete in {run.path}",
                hint=f"run {needed.partition('-')[0]} there first, or everything in order with `mmpo run`",
            )


def run_section(run: RunFolder, recipe: Recipe, section: str, *, name: str | None = None) -> dict[str, Any]:
    """Do one section (or take it as it is, if it is complete) in the step `name` and return its result."""
    check_section(run, recipe, section, name=name)
    if section != "train" and process_count() > 1:
        raise UserError(f"{section} runs in one process", hint="use `accelerate launch` for `mmpo train` alone")
    settings = getattr(recipe, section)
    step = run.step(name or section)

    def work() -> Mapping[str, Any]:
        module, _, function = STAGES[section].partition(":")
        return as_mapping(getattr(import_module(module), function)(settings, step.path))

    return step.do(section_settings(recipe, section), work, again=starts_over(recipe, section))


def starts_over(recipe: Recipe, section: str) -> bool:
    """Does the section say `resume: false`? It is then done again, complete or not."""
    return getattr(getattr(recipe, section), "resume", True) is False


def section_settings(recipe: Recipe, section: str) -> dict[str, Any]:
    """The section as plain data, defaults included, without what decides no result (see `mmpo.resuming`), with the
    versions of the plug-ins that it uses."""
    settings = getattr(recipe, section)
    if settings is None:
        have = ", ".join(recipe.sections()) or "no section"
        raise UserError(f"the recipe {recipe.name} has no `{section}:` section", hint=f"it has: {have}")
    data = deciding(settings)
    if versions := plugins.versions_of(recipe.plugins, _words(data) | _model_type(settings)):
        data["plugins"] = versions
    return data


def _words(value: Any) -> set[str]:
    """Every key and every text in plain data."""
    if isinstance(value, Mapping):
        return set(map(str, value)).union(*map(_words, value.values()))
    if isinstance(value, list):
        return set[str]().union(*map(_words, value))
    return {value} if isinstance(value, str) else set()


def _model_type(settings: BaseModel) -> set[str]:
    """The type of the section's model, which is the name of its family's record; none for a model that is not here."""
    folder = find_model(str(getattr(settings, "model", None) or ""))
    config = {} if folder is None or not (folder / "config.json").is_file() else read_json(folder / "config.json")
    return {str(config.get("model_type", ""))}


def as_mapping(result: Any) -> dict[str, Any]:
    """A stage's result (a dataclass, a pydantic model or a mapping) as plain data."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json")
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return dict(result)
