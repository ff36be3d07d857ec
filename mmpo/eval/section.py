"""The base of every block of settings: an unknown key is a mistake, not a silent nothing."""

from __future__ import annotations

from typing import Any

from mmpo.settings import Settings


class Section(Settings):
    """A block of a recipe's `eval` section. A benchmark's settings class derives from it and lives in its own file."""


def distinct(values: list[Any]) -> list[Any]:
    """For `field_validator`: a list that names each thing at most once."""
    if len(set(values)) != len(values):
        raise ValueError("each name at most once")
    return values
