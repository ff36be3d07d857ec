"""A recipe as it runs in one of its rounds.

Round 1 is the recipe itself, with the folders `build-1`, `train-1`, `eval-1`. A later round r has the model that the
round before left, merged into one folder (`merge-(r-1)/model`), so that `adapter off` in round r is exactly the model
that wrote its descriptions; and other seeds: those of the recipe + 1000 (r - 1).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmpo.recipes.schema import Recipe

SEED_STEP = 1000
"""The seeds of two rounds lie this far apart: further than those of runs that are repeated with seeds 0, 1, 2 …"""

ANSWERS = "eval-answers"
"""The folder of a run where its evaluations share answers: the first model is asked once for all rounds."""

FINDINGS = "evidence-findings"
"""The folder of a run where its builds share what sources of evidence found: no detector is asked twice about a class
in a photo."""


def folder_of(section: str, number: int) -> str:
    """The name of a section's step in a round: `build-2`."""
    return f"{section}-{number}"


def model_after(run: Path, number: int) -> Path:
    """The whole model that round `number` left, for the next round."""
    return run / folder_of("merge", number) / "model"


def in_round(recipe: Recipe, run: Path, number: int) -> Recipe:
    """The recipe of round `number` (from 1) in the folder `run`. The recipe must have `rounds` and `train`."""
    assert recipe.rounds is not None and recipe.train is not None
    sections = recipe.sections()
    found = {}
    for section in sections:
        settings = getattr(recipe, section)
        data = _moved(settings.model_dump(exclude_unset=True), run, sections, number)
        if section == "eval" and settings.cache is None:
            data["cache"] = str(run / ANSWERS)
        if section == "build" and getattr(settings, "evidence_cache", "") is None:
            data["evidence_cache"] = str(run / FINDINGS)
        if number > 1:
            data = _pinned(data, recipe.train.model) if section != "train" else data
            if "seed" in type(settings).model_fields:
                data["seed"] = settings.seed + SEED_STEP * (number - 1)
            data |= _models(recipe, section, run, number)
        found[section] = type(settings).model_validate(data)
    return recipe.model_copy(update=found)


def _models(recipe: Recipe, section: str, run: Path, number: int) -> dict[str, Any]:
    """The models of a section in a round after the first."""
    assert recipe.rounds is not None and recipe.train is not None
    first, last = recipe.train.model, str(model_after(run, number - 1))
    on = recipe.rounds.train_from == "previous"
    if section == "train":
        fixed = recipe.rounds.reference == "fixed"
        if on:
            return {"model": last, **({"reference": {"model": first}} if fixed else {})}
        before = run / folder_of("train", number - 1) / "adapter"
        return {"model": first, **({} if fixed else {"reference": {"adapter": str(before)}})}
    if section == "eval":
        compared = recipe.eval is not None and recipe.eval.compare is not None
        return {"model": last, **({"before": first} if compared else {})} if on else {"model": first}
    return {"model": last} if getattr(getattr(recipe, section), "model", None) is not None else {}


def _moved(value: Any, run: Path, sections: Collection[str], number: int) -> Any:
    """Settings with what they name below `run/SECTION` in the folder of the round."""
    if isinstance(value, Mapping):
        return {key: _moved(item, run, sections, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, run, sections, number) for item in value]
    if isinstance(value, str | Path):
        for section in sections:
            before = str(run / section)
            if str(value) == before or str(value).startswith(before + os.sep):
                return type(value)(str(run / folder_of(section, number)) + str(value)[len(before) :])
    return value


def _pinned(value: Any, model: str) -> Any:
    """Settings in which evidence from the model itself (`source: self`) goes on coming from `model`, the first: a
    tuned model would be its own judge."""
    if isinstance(value, Mapping):
        own = {"model": model} if value.get("source") == "self" and not value.get("model") else {}
        return {key: _pinned(item, model) for key, item in value.items()} | own
    return [_pinned(item, model) for item in value] if isinstance(value, list) else value
