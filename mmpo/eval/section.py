"""Settings of benchmarks: the base of every block, and which benchmarks have one. Neither torch nor numpy here.

A benchmark of mmpo's own is a folder beside this file with `task.py` and `settings.py`; the folder's name is the
benchmark's, and the settings are the one class of `settings.py` whose name ends in `Settings`. Its docstring begins
with a line about the benchmark. Those of plug-ins come with `mmpo.eval.task.benchmark`.
"""

from __future__ import annotations

import inspect
import pkgutil
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from mmpo.registry import Registry
from mmpo.settings import SAMPLING, Settings


class Section(Settings):
    """A block of a recipe's `eval` section."""

    @classmethod
    def about(cls) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]


class VideoFrames(Section):
    """The frames of a video that the model sees."""

    num: int = Field(default=8, ge=1, le=256, description="Frames of a video.")
    sampling: Annotated[str, SAMPLING] = Field(
        default="linspace_trunc", description="How they are chosen: see docs/video.md."
    )
    max_side: int | None = Field(default=336, ge=16, description="Longer side of a frame; larger ones are shrunk.")


ADDED: Registry[type[Section]] = Registry("benchmarks")
"""The settings of benchmarks that are no folder of mmpo's own, by name."""


def sections() -> dict[str, type[Section]]:
    """The settings of every benchmark there is by now, by name."""
    return {**own_sections(), **ADDED}


@cache
def own_sections() -> dict[str, type[Section]]:
    """The settings of mmpo's own benchmarks, by name."""
    return {name: _settings_of(f"mmpo.eval.{name}.settings") for name in own_benchmarks()}


@cache
def own_benchmarks() -> tuple[str, ...]:
    """The folders with a `task.py`."""
    folders = (one.name for one in pkgutil.iter_modules(import_module("mmpo.eval").__path__) if one.ispkg)
    return tuple(name for name in folders if find_spec(f"mmpo.eval.{name}.task") is not None)


def _settings_of(module: str) -> type[Section]:
    found = [
        kind
        for name, kind in vars(import_module(module)).items()
        if name.endswith("Settings") and inspect.isclass(kind) and kind.__module__ == module
    ]
    assert len(found) == 1 and issubclass(found[0], Section), f"{module}: one class called …Settings, not {found}"
    return found[0]


def distinct(values: list[Any]) -> list[Any]:
    """For `field_validator`: a list that names each thing at most once."""
    if len(set(values)) != len(values):
        raise ValueError("each name at most once")
    return values
