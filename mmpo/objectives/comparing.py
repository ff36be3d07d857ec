"""How far found numbers are from expected ones. An error is the smaller of the absolute and the relative one; of many
numbers it is the largest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.case_records import CaseRecord, Path, said

SUMMED = "policy_sum"
"""The derivative by a response's policy log-probs, equal for all of them, summed over them."""
SPREAD = "policy_spread"
"""The derivative by the sum of a response's policy log-probs where that is spread evenly over them."""


@dataclass
class Compared:
    """The largest errors of a loss and of its gradient so far; None where none was compared."""

    of_loss: float | None = None
    of_gradient: float | None = None

    def loss(self, error: float) -> None:
        self.of_loss = error if self.of_loss is None else max(self.of_loss, error)

    def gradient(self, error: float) -> None:
        self.of_gradient = error if self.of_gradient is None else max(self.of_gradient, error)


def error_of(found: float, expected: float) -> float:
    """The smaller of the absolute and the relative error; infinite for what is no number."""
    if not math.isfinite(found):
        return math.inf
    absolute = abs(found - expected)
    return min(absolute, absolute / abs(expected)) if expected else absolute


def compare_lists(found: Any, expected: Any, place: str) -> float:
    """The largest error among numbers in lists of lists of one shape; null is not compared. Raises `UserError` where
    the shapes differ."""
    if isinstance(found, Tensor):
        found = found.detach().tolist()
    if expected is None:
        return 0.0
    if isinstance(expected, list):
        if not isinstance(found, list):
            raise UserError(f"{place}: one number was found, and a list is expected")
        if len(found) != len(expected):
            raise UserError(f"{place}: {len(found)} numbers were found, and {len(expected)} are expected")
        pairs = zip(found, expected, strict=True)
        return max((compare_lists(ours, theirs, place) for ours, theirs in pairs), default=0.0)
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        raise UserError(f"{place}: what is expected must be numbers")
    if isinstance(found, list):
        raise UserError(f"{place}: {len(found)} numbers were found, and one is expected")
    return error_of(float(found), float(expected))


def compare_gradients(record: CaseRecord, expected: Any, scale: float = 1.0) -> float:
    """The largest error among the derivatives by all inputs, `scale` times what backward left. An input that `expected`
    does not name must have none."""
    named = dict(_fields(expected, ()))
    worst = 0.0
    for path, leaf in record.leaves.items():
        grads = leaf.tensor.grad
        row = leaf.tensor.new_zeros(leaf.tensor.shape[1:]) if grads is None else grads[leaf.row] * scale
        ours = row[: leaf.length].tolist()
        place = f"gradient.{said(path)}"
        if path in named:
            worst = max(worst, compare_lists(ours, named.pop(path), place))
        elif path[-1] == "policy" and (other := _of_sum(path, named)) is not None:
            key, value = other
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{place}_{key.removeprefix('policy_')} must be a number")
            count = max(1, leaf.length)
            if key == SUMMED:
                worst = max([worst, *(error_of(one * count, value) for one in ours)])
            else:
                worst = max(worst, error_of(sum(ours) / count, value))
        else:
            worst = max([worst, *(error_of(one, 0.0) for one in _flat(ours))])
    if named:
        raise UserError(f"gradient.{said(next(iter(named)))}: the inputs have no such number")
    return worst


def _of_sum(path: Path, named: dict[Path, Any]) -> tuple[str, Any] | None:
    for key in (SUMMED, SPREAD):
        if (*path[:-1], key) in named:
            return key, named.pop((*path[:-1], key))
    return None


def _fields(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The numbers of an expected gradient with their places: lists of objects are rows, all other lists numbers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _fields(inner, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        for number, inner in enumerate(value):
            yield from _fields(inner, (*path, number))
    elif not (isinstance(value, list) and not value and path and path[-1] in ("pairs", "groups", "samples")):
        yield path, value


def _flat(value: Any) -> list[float]:
    return [x for one in value for x in _flat(one)] if isinstance(value, list) else [value]
