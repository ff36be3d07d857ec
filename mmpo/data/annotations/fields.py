"""Values of annotation files as they must be; each mistake raises UserError that begins with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpo.data.annotations.records import BoxXYWH
from mmpo.data.spans import is_number
from mmpo.errors import UserError


def key_of(record: Mapping[str, Any], key: str, where: str) -> str:
    """An id as text, as pairs and answers carry it: files write one id as a number here and as a string there."""
    value = record.get(key)
    if not (is_number(value) or (isinstance(value, str) and value.strip())):
        raise UserError(f"{where}: `{key}` must be a number or a string, got {value!r}")
    return str(value)


def text_of(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must be a non-empty string, got {value!r}")
    return value


def list_of(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list, got {type(value).__name__}")
    return value


def pixels_of(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise UserError(f"{where} must be a number of pixels, got {value!r}")
    return value


def box_of(value: Any, where: str) -> BoxXYWH:
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        raise UserError(f"{where}: `bbox` must be four numbers [x, y, width, height], got {value!r}")
    x, y, width, height = map(float, value)
    if width < 0 or height < 0:
        raise UserError(f"{where}: `bbox` has a negative size: {value!r}", hint="boxes are [x, y, width, height]")
    return x, y, width, height
