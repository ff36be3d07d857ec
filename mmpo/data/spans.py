"""Stretches of a response's text that carry something: weights, or the scores of steps and segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmpo.errors import UserError

Span = dict[str, Any]
"""`{"start": int, "end": int, "weight": float}`: characters `[start, end)` of a response's text."""

TextPart = dict[str, Any]
"""`{"start": int, "end": int, "kind": "step" | "segment", "scores": [float, …]}`: characters `[start, end)` that were
judged as one. A step has one score, a segment one for each aspect."""

PART_KINDS = ("step", "segment")


def check_spans(spans: Any, text: str, at: str) -> None:
    """Raises `UserError` for spans that are not character ranges of `text` in order, each with a weight."""
    if not isinstance(spans, list | None):
        raise UserError(f"{at} must be a list of spans, got {short(spans)}")
    end_before = 0
    for number, span in enumerate(spans or []):
        here = f"{at}[{number}]"
        start, end, weight = _fields(span, ("start", "end", "weight"), here)
        end_before = _check_range(start, end, end_before, text, here)
        if not is_number(weight) or weight < 0:
            raise UserError(f"{here}: weight {weight!r} is not a number of at least 0")


def check_parts(parts: Any, text: str, at: str) -> int | None:
    """The number of aspects that the segments are scored by, None without segments. Raises `UserError` for parts that
    are not scored character ranges of `text`. Those of one kind follow one another; a step may lie across segments."""
    if not isinstance(parts, list | None):
        raise UserError(f"{at} must be a list of parts, got {short(parts)}")
    ends = dict.fromkeys(PART_KINDS, 0)
    aspects: int | None = None
    for number, part in enumerate(parts or []):
        here = f"{at}[{number}]"
        start, end, kind, scores = _fields(part, ("start", "end", "kind", "scores"), here)
        if kind not in PART_KINDS:
            raise UserError(f"{here}: kind {short(kind)} is not one of {', '.join(PART_KINDS)}")
        ends[kind] = _check_range(start, end, ends[kind], text, here)
        if not isinstance(scores, list) or not scores or not all(map(is_number, scores)):
            raise UserError(f"{here}: `scores` must be a list of finite numbers, got {short(scores)}")
        if kind == "step" and len(scores) > 1:
            raise UserError(f"{here}: a step has one score, got {len(scores)}", hint="segments have several")
        if kind == "segment":
            aspects = len(scores) if aspects is None else aspects
            if len(scores) != aspects:
                raise UserError(f"{here}: {len(scores)} scores, where the segments before have {aspects}")
    return aspects


def _fields(span: Any, names: Sequence[str], here: str) -> list[Any]:
    try:
        return [span[name] for name in names]
    except (KeyError, TypeError):
        listed = ", ".join(f"`{name}`" for name in names[:-1])
        raise UserError(f"{here} needs {listed} and `{names[-1]}`, got {short(span)}") from None


def _check_range(start: Any, end: Any, end_before: int, text: str, here: str) -> int:
    """The end of the range, which begins at or behind `end_before`."""
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise UserError(f"{here}: characters {start} to {end} of a response of {len(text)}")
    if start < end_before:
        raise UserError(f"{here} starts at {start}, before the span in front of it ends ({end_before})")
    return end


def is_number(value: Any) -> bool:
    """A finite int or float; JSON's true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
