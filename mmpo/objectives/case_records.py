"""Records of log-probs from the inputs of a golden case: padded to the case's longest response, with masks, in float64.

What a model's gradient flows through asks for one, as in training: the policy's numbers and no others.

Shapes: b rows (pairs, or responses of a kind), t tokens, s of a sequence, h hidden, k parts of a response, a aspects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.registry import OBJECTIVES
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps, ViewSpec

PER_TOKEN = (
    "policy", "reference", "weights", "kl", "tail_kl", "log_sum_squares", "eos_policy", "eos_reference", "label_logit",
    "label_logit_corrupted", "reference_label_logit", "reference_label_logit_corrupted", "second_reference",
)  # fmt: skip
"""Fields with a number for each token."""
NUMBERED = ("turns", "steps", "segments")
"""Fields with the number of the part that each token belongs to."""
SCORED = {"step_scores": "steps", "segment_scores": "segments"}
"""Fields with a score, or several, for each part."""
STATES = ("policy_hidden", "reference_hidden")
DIFFERENTIABLE = (
    "policy", "kl", "tail_kl", "eos_policy", "label_logit", "label_logit_corrupted", "policy_hidden",
)  # fmt: skip
"""Fields through which a gradient flows."""
FIELDS = {*PER_TOKEN, *NUMBERED, *SCORED, *STATES, "positions", "score"}
OF_RESPONSE = {"policy", "reference", "weights", "kl", *STATES}
"""Fields of `ResponseLogps` itself; the others are in its `more`."""
MAX_NUMBERS = 1 << 26
"""Numbers of one field, padding included."""

Path = tuple[str | int, ...]


@dataclass
class Leaf:
    """Where numbers of the inputs went: the first `length` places of row `row` of `tensor`."""

    tensor: Tensor
    row: int
    length: int


@dataclass
class CaseRecord:
    """The record of a case, and its leaves by their paths in the inputs."""

    pairs: PairLogps
    leaves: dict[Path, Leaf] = field(default_factory=dict)


def record_of(inputs: Mapping[str, Any], views: Sequence[ViewSpec]) -> CaseRecord:
    """The record of a case's `inputs` for a loss that compares with these views. Raises `UserError` for inputs that
    hold something else than the format says, naming the place."""
    return _Building(inputs, views).record()


class _Building:
    def __init__(self, inputs: Mapping[str, Any], views: Sequence[ViewSpec]) -> None:
        self.inputs = inputs
        self.views = {view.name: view for view in views}
        self.leaves: dict[Path, Leaf] = {}
        self.width = 1

    def record(self) -> CaseRecord:
        pairs = self._list(self.inputs, "pairs", ())
        groups = self._list(self.inputs, "groups", ())
        tables: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
        for side in ("chosen", "rejected"):
            tables[side] = [
                (("pairs", i, side), _map(_map(pair, ("pairs", i)).get(side), ("pairs", i, side)))
                for i, pair in enumerate(pairs)
            ]
        for i, pair in enumerate(pairs):
            for name, row in _map(pair.get("views", {}), ("pairs", i, "views")).items():
                path: Path = ("pairs", i, "views", name)
                tables.setdefault(f"view {name}", []).append((path, _map(row, path)))
            for j, row in enumerate(self._list(pair, "samples", ("pairs", i))):
                path = ("pairs", i, "samples", j)
                tables.setdefault("samples", []).append((path, _map(row, path)))
        for kind in ("auxiliary", "mismatched"):
            if kind in self.inputs:
                rows = self._list(self.inputs, kind, ())
                tables[kind] = [((kind, i), _map(row, (kind, i))) for i, row in enumerate(rows)]
        for i, group in enumerate(groups):
            for j, row in enumerate(self._list(_map(group, ("groups", i)), "responses", ("groups", i))):
                path = ("groups", i, "responses", j)
                tables.setdefault("groups", []).append((path, _map(row, path)))
        lengths = [
            len(_numbers(row.get("policy"), (*path, "policy"))) for rows in tables.values() for path, row in rows
        ]
        self.width = max(lengths, default=1)
        made = {name: self._responses(rows) for name, rows in tables.items()}
        record = PairLogps(
            made["chosen"],
            made["rejected"],
            self._views(made, len(pairs)),
            auxiliary=made.get("auxiliary"),
            scores=self._scores(pairs),
            progress=_progress(self.inputs),
        )
        if "samples" in made:
            record.samples = made["samples"]
            record.samples_of = torch.tensor([cast(int, path[1]) for path, _ in tables["samples"]])
        if "groups" in made:
            scores = [_number(row.get("score"), (*path, "score")) for path, row in tables["groups"]]
            group = torch.tensor([cast(int, path[1]) for path, _ in tables["groups"]])
            record.groups = ResponseGroups(made["groups"], group, torch.tensor(scores, dtype=torch.float64))
        return CaseRecord(record, self.leaves)

    def _list(self, holder: Mapping[str, Any], key: str, path: Path) -> Sequence[Any]:
        value = holder.get(key, [])
        if not isinstance(value, list):
            raise _wrong((*path, key), "must be a list", value)
        return value

    def _views(self, made: Mapping[str, ResponseLogps], pairs: int) -> dict[ViewSpec, ResponseLogps]:
        found = {}
        for table, responses in made.items():
            kind, _, name = table.partition(" ")
            if kind == "mismatched":
                found[self._spec("mismatched")] = responses
            elif kind == "view":
                if len(responses.mask) != pairs:
                    raise UserError(f"the view {name!r} is in some of the pairs, and not in others")
                found[self._spec(name)] = responses
        return found

    def _spec(self, name: str) -> ViewSpec:
        """The view of that name: as the case's loss asks for it, as another loss does, or one of its own."""
        if name in self.views:
            return self.views[name]
        for entry in OBJECTIVES.values():
            for view in () if callable(entry.views) else entry.views:
                if view.name == name:
                    return view
        stem, _, number = name.rpartition("_")
        for view in self.views.values():
            if number.isdecimal() and stem in (view.name, view.name.rpartition("_")[0]):
                return replace(view, name=name, candidate=int(number))
        return ViewSpec(name, "rejected" if name.startswith("rejected") else "chosen")

    def _scores(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        given = [_map(pair.get("scores", {}), ("pairs", i, "scores")) for i, pair in enumerate(pairs)]
        names = dict.fromkeys(name for scores in given for name in scores)
        found = {}
        for name in names:
            rows = [
                math.nan if scores.get(name) is None else _number(scores[name], ("pairs", i, "scores", name))
                for i, scores in enumerate(given)
            ]
            found[name] = torch.tensor(rows, dtype=torch.float64)
        return found

    # ---- responses

    def _responses(self, rows: Sequence[tuple[Path, Mapping[str, Any]]]) -> ResponseLogps:
        lengths = [len(row.get("policy", ())) for _, row in rows]
        if len(rows) * self.width > MAX_NUMBERS:
            raise UserError(f"too large: {len(rows)} responses padded to {self.width} tokens")
        mask = torch.arange(self.width) < torch.tensor(lengths, dtype=torch.long)[:, None]
        names = dict.fromkeys(name for _, row in rows for name in row)
        if unknown := [name for name in names if name not in FIELDS]:
            path = next(path for path, row in rows if unknown[0] in row)
            raise UserError(f"{said((*path, unknown[0]))}: no field of responses", hint=f"one of {', '.join(FIELDS)}")
        found: dict[str, Tensor] = {}
        for name in names:
            if name == "score":
                continue
            there = [name in row for _, row in rows]
            if not all(there) and name != "positions":
                raise UserError(f"{said((*rows[there.index(False)][0], name))}: missing, where other rows have it")
            found[name] = self._field(name, rows, lengths)
        hidden = [len(row[name]) for name in STATES if name in names for _, row in rows]
        twice = lengths * sum(name in names for name in STATES)
        hidden_mask = None
        if hidden and hidden != twice:
            spans = torch.tensor(hidden[: len(rows)])
            if hidden[: len(rows)] != hidden[-len(rows) :]:
                raise UserError(f"{said(rows[0][0])}: policy_hidden and reference_hidden span different tokens")
            hidden_mask = torch.arange(int(spans.max())) < spans[:, None]
        policy = found.pop("policy") if rows else torch.zeros(0, self.width, dtype=torch.float64)
        return ResponseLogps(
            policy,
            found.get("reference"),
            mask,
            found.get("weights"),
            None,
            found.get("policy_hidden"),
            found.get("reference_hidden"),
            hidden_mask,
            found.get("kl"),
            {name: value for name, value in found.items() if name not in OF_RESPONSE},
        )

    def _field(self, name: str, rows: Sequence[tuple[Path, Mapping[str, Any]]], lengths: Sequence[int]) -> Tensor:
        if name in PER_TOKEN:
            return self._per_token(name, rows, lengths)
        if name in STATES:
            return self._nested(name, rows, lambda row, path: [_numbers(x, path) for x in _rows(row, path)], 0.0)
        if name in SCORED:
            return self._parts(name, rows)
        if name == "positions":
            drawn = torch.zeros(len(rows), self.width, dtype=torch.bool)
            for i, (path, row) in enumerate(rows):
                given = _places(row.get(name), (*path, name), lengths[i]) if name in row else range(lengths[i])
                drawn[i, list(given)] = True
            return drawn
        numbers = torch.full((len(rows), self.width), -1, dtype=torch.long)
        for i, (path, row) in enumerate(rows):
            given = _places(row[name], (*path, name), MAX_NUMBERS, each=True)
            _check_length(given, lengths[i], (*path, name))
            numbers[i, : lengths[i]] = torch.tensor(given, dtype=torch.long)
        return numbers

    def _per_token(self, name: str, rows: Sequence[tuple[Path, Mapping[str, Any]]], lengths: Sequence[int]) -> Tensor:
        padded = torch.zeros(len(rows), self.width, dtype=torch.float64)
        for i, (path, row) in enumerate(rows):
            given = _numbers(row[name], (*path, name))
            _check_length(given, lengths[i], (*path, name))
            padded[i, : lengths[i]] = torch.tensor(given, dtype=torch.float64)
        return self._leaf(padded, name, rows, lengths)

    def _leaf(
        self, padded: Tensor, name: str, rows: Sequence[tuple[Path, Mapping[str, Any]]], lengths: Sequence[int]
    ) -> Tensor:
        if name in DIFFERENTIABLE:
            padded.requires_grad_()
            for i, (path, _) in enumerate(rows):
                place = (*path, name)
                self.leaves[place] = Leaf(padded, i, lengths[i])
        return padded

    def _parts(self, name: str, rows: Sequence[tuple[Path, Mapping[str, Any]]]) -> Tensor:
        nested = name == "segment_scores"

        def read(value: Any, path: Path) -> list[list[float]]:
            if nested:
                return [_numbers(x, path) for x in _rows(value, path)]
            return [[number] for number in _numbers(value, path)]

        found = self._nested(name, rows, read, math.nan)
        return found if nested else found[..., 0]

    def _nested(
        self,
        name: str,
        rows: Sequence[tuple[Path, Mapping[str, Any]]],
        read: Callable[[Any, Path], list[list[float]]],
        fill: float,
    ) -> Tensor:
        given = [read(row[name], (*path, name)) for path, row in rows]
        inner = {len(x) for one in given for x in one}
        if len(inner) > 1:
            raise UserError(f"{said((*rows[0][0], name))}: rows of {' and '.join(map(str, sorted(inner)))} numbers")
        longest = max((len(one) for one in given), default=0)
        of_tokens = name in STATES and [len(one) for one in given] == [len(row["policy"]) for _, row in rows]
        size = self.width if of_tokens else longest, inner.pop() if inner else 1
        if len(rows) * size[0] * size[1] > MAX_NUMBERS:
            raise UserError(f"too large: {name} of {len(rows)} responses, padded to {size[0]} x {size[1]} numbers")
        padded = torch.full((len(rows), *size), fill, dtype=torch.float64)
        for i, one in enumerate(given):
            if one:
                padded[i, : len(one)] = torch.tensor(one, dtype=torch.float64)
        return self._leaf(padded, name, rows, [len(one) for one in given])


def _progress(inputs: Mapping[str, Any]) -> float:
    state = _map(inputs.get("state", {}), ("state",))
    value = _number(state.get("progress", 0.0), ("state", "progress"))
    if not 0 <= value <= 1:
        raise UserError(f"state.progress must be between 0 and 1 (it is {value:g})")
    return value


# ---- values of a file of unknown origin


def said(path: Path) -> str:
    """A place in the inputs: `pairs[0].chosen.policy`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _wrong(path: Path, wrong: str, value: Any) -> UserError:
    return UserError(f"{said(path)} {wrong} (it is {_short(value)})")


def _short(value: Any) -> str:
    return {list: "a list", dict: "an object", type(None): "missing"}.get(type(value)) or repr(value)[:60]


def _map(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "must be an object", value)
    return value


def _rows(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(path, "must be a list of lists", value)
    return value


def _number(value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(path, "must be a number", value)
    return float(value)


def _numbers(value: Any, path: Path) -> list[float]:
    if not isinstance(value, list):
        raise _wrong(path, "must be a list of numbers", value)
    return [_number(one, (*path, i)) for i, one in enumerate(value)]


def _places(value: Any, path: Path, count: int, *, each: bool = False) -> list[int]:
    """Places below `count`, each once; or the number of `each` token's part, -1 outside all parts."""
    found = _numbers(value, path)
    if any(one != int(one) or not -each <= one < count for one in found) or (not each and len({*found}) != len(found)):
        allowed = "numbers from 0 (-1: outside)" if each else f"places from 0 below {count}, each once"
        raise UserError(f"{said(path)} must be whole {allowed}")
    return [int(one) for one in found]


def _check_length(given: Sequence[Any], length: int, path: Path) -> None:
    if len(given) != length:
        raise UserError(f"{said(path)} has {len(given)} numbers, and the response {length} tokens")
