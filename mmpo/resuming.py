"""Changes allowed when work is resumed: settings that decide no result, and everything before work began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

BEFORE_WORK = frozenset({"step.json", "source.json", "settings.json", "rejects.jsonl"})
"""Files of a step's folder that are written before any work is done, or made again from the settings alone."""


def deciding(settings: BaseModel) -> dict[str, Any]:
    """Settings as JSON data, defaults included, without those that decide no result.

    These are named by `FREE: ClassVar[frozenset[str]]` on the class that has them, at any depth: where and how fast a
    text model is reached is set in `ChatSettings`, once for every section that has one.
    """
    data: dict[str, Any] = _kept(settings, settings.model_dump(mode="json"))
    return data


def _kept(value: Any, data: Any) -> Any:
    if isinstance(value, BaseModel):
        free: frozenset[str] = getattr(type(value), "FREE", frozenset())
        return {key: _kept(getattr(value, key), item) for key, item in data.items() if key not in free}
    if isinstance(value, Mapping):
        return {key: _kept(item, data[key]) for key, item in zip(data, value.values(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_kept(item, given) for item, given in zip(value, data, strict=True)]
    return data


def has_work(folder: Path) -> bool:
    """True if a step's folder holds anything that other settings would have made otherwise. A step that failed before
    it came to that may be corrected and run again in the same place."""
    return any(
        path.is_file() and path.stat().st_size > 0 and path.name not in BEFORE_WORK
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
