"""The limits beyond which a check is a sign that the model got worse at something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmpo.eval.statistics.drift import DriftRow

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limit:
    """`shown` is the limit in a few letters; `beyond` says of a row in words what is wrong, "" within the limit."""

    shown: str
    beyond: Callable[[DriftRow], str]


def _rise(most: float, shown: str, words: str) -> Limit:
    def beyond(row: DriftRow) -> str:
        return words if row.before is not None and row.after.value - row.before.value > most + _ROUNDING else ""

    return Limit(shown, beyond)


def _relative_fall(most: float, shown: str, words: str) -> Limit:
    def beyond(row: DriftRow) -> str:
        before = 0.0 if row.before is None else row.before.value
        return words if before and (before - row.after.value) / before > most + _ROUNDING else ""

    return Limit(shown, beyond)


def _level(most: float, shown: str, words: str) -> Limit:
    return Limit(shown, lambda row: words if row.after.value > most + _ROUNDING else "")


def _ratio(low: float, high: float, shown: str, below: str, above: str) -> Limit:
    def beyond(row: DriftRow) -> str:
        if row.ratio is None:
            return ""
        if row.ratio.value < low - _ROUNDING:
            return below
        return above if row.ratio.value > high + _ROUNDING else ""

    return Limit(shown, beyond)


def _bias(most: float, shown: str, words: str) -> Limit:
    """Of a share minus the labels' share: how much further it is from 0 than before."""

    def beyond(row: DriftRow) -> str:
        further = 0.0 if row.before is None else abs(row.after.value) - abs(row.before.value)
        return words if further > most + _ROUNDING else ""

    return Limit(shown, beyond)


def _move(most: float, shown: str, words: str) -> Limit:
    def beyond(row: DriftRow) -> str:
        moved = 0.0 if row.before is None else abs(row.after.value - row.before.value)
        return words if moved > most + _ROUNDING else ""

    return Limit(shown, beyond)


_LENGTH = _ratio(0.8, 1.25, "×0.8–1.25", "answers are shorter", "answers are longer")
_YES = "answers lean more to one of yes and no"
_LESS_DIVERSE = "answers use fewer different {}"
_TEXTS = _ratio(0.0, 1.05, "×1.05", "", "ordinary texts became less likely")
_KL = _level(0.1, "0.1", "the model moved far from its base where nobody trained it to")

LIMITS: dict[str, Limit] = {
    "rep-4": _rise(0.05, "+5.0", "answers repeat themselves"),
    "distinct-1": _relative_fall(0.1, "−10%", _LESS_DIVERSE.format("words")),
    "distinct-2": _relative_fall(0.1, "−10%", _LESS_DIVERSE.format("word pairs")),
    "loop": _rise(0.01, "+1.0", "answers run in a loop"),
    "at-limit": _rise(0.05, "+5.0", "more answers are cut off at the token limit"),
    "words-median": _LENGTH,
    "tokens-median": _LENGTH,
    "empty": _level(0.0, "any", "answers are empty"),
    "yes-bias": _bias(0.05, "±5.0", _YES),
    "yes-ratio": _move(0.05, "±5.0", _YES),
    "perplexity": _TEXTS,
    "perplexity-captions": _TEXTS,
    "kl-forward": _KL,
    "kl-reverse": _KL,
}
"""By the name of a check. Where the labels' share is known `yes-bias` is judged, else `yes-ratio`."""


def judged(row: DriftRow) -> DriftRow:
    """The row with its limit, and with its sign where it is beyond; as it is where nothing limits it."""
    limit = LIMITS.get(row.metric)
    if limit is None:
        return row
    return row.model_copy(update={"limit": limit.shown, "sign": limit.beyond(row)})
