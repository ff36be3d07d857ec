"""Files of golden values: the cases of `schema_version` 2 (records, token by token) and 1 (sums and lengths)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpo.errors import UserError
from mmpo.objectives.comparing import SPREAD
from mmpo.objectives.names import OF_SUMS, OTHER_NAMES, OtherName

TOLERANCES = {1: 2e-6, 2: 1e-6}
"""How far a number may be off, by `schema_version`."""
MAX_TOKENS = 1 << 20


@dataclass(frozen=True)
class Case:
    """One case. `refused` names what must be refused; `problem` says what is wrong with the case itself."""

    id: str
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    plus: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    selected: Sequence[int] | None = None
    refused: tuple[str, ...] | None = None
    gradient_scale: float = 1.0
    table: Mapping[str, OtherName] = field(default_factory=lambda: OTHER_NAMES)
    problem: str = ""

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.expected.get(key) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"expected.{key} must be an object")
        return value


@dataclass(frozen=True)
class Statistic:
    """A number of each token that scoring computes from logits [tokens, vocabulary]."""

    id: str
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    logits: Mapping[str, Any] = field(default_factory=dict)
    expected: Any = None
    problem: str = ""


@dataclass(frozen=True)
class GoldenFile:
    """The cases and statistics of a file, and its tolerance."""

    cases: Sequence[Case]
    statistics: Sequence[Statistic]
    tolerance: float


def golden_file(document: Any) -> GoldenFile:
    """The cases of a parsed file. Raises `UserError` for a document of an unknown format; what is wrong with a case is
    said in that case."""
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or isinstance(version, bool) or version not in (1, 2):
        raise UserError(
            f"unknown schema_version {version!r}" if isinstance(document, Mapping) else "not an object of golden cases",
            hint="files of schema_version 1 (sums) and 2 (records) are known",
        )
    lists = {}
    for key in ("cases", "statistics"):
        lists[key] = document.get(key, [])
        if not isinstance(lists[key], list):
            raise UserError(f"{key} must be a list")
    if version == 1:
        pairs = document.get("pairs")
        cases = [_of_sums(case, number, pairs) for number, case in enumerate(lists["cases"])]
    else:
        cases = [_case(case, number) for number, case in enumerate(lists["cases"])]
    statistics = [_statistic(one, number) for number, one in enumerate(lists["statistics"])]
    if not cases and not statistics:
        raise UserError("the file holds no cases")
    return GoldenFile(cases, statistics, TOLERANCES[version])


def _id(case: Any, number: int) -> str:
    if isinstance(case, Mapping):
        for key in ("id", "name"):
            if isinstance(case.get(key), str) and case[key]:
                return str(case[key])
    return f"#{number + 1}"


def _problem(case: Any, name: str, kinds: Mapping[str, type]) -> str:
    """What is wrong with a case as a whole; empty where nothing is."""
    if not isinstance(case, Mapping):
        return "a case must be an object"
    if not isinstance(case.get(name), str):
        return f"{name} must be text"
    for key, kind in kinds.items():
        if key in case and not isinstance(case[key], kind):
            return f"{key} must be {'a list' if kind is list else 'an object'}"
    return ""


def _case(case: Any, number: int) -> Case:
    kinds = {"parameters": Mapping, "plus": Mapping, "inputs": Mapping, "expected": Mapping}
    if wrong := _problem(case, "name", kinds):
        return Case(_id(case, number), problem=wrong)
    inputs, expected = case.get("inputs", {}), case.get("expected", {})
    selected, refused = inputs.get("selected"), expected.get("refused")
    if selected is not None and not (
        isinstance(selected, list) and all(type(place) is int and place >= 0 for place in selected)
    ):
        return Case(_id(case, number), problem="inputs.selected must be a list of places")
    if not isinstance(inputs.get("state", {}), Mapping):
        return Case(_id(case, number), problem="inputs.state must be an object")
    known = ("pairs", "groups", "auxiliary", "mismatched", "state", "selected")
    if unknown := [key for key in inputs if key not in known]:
        return Case(_id(case, number), problem=f"inputs.{unknown[0]} is not known; there are {', '.join(known)}")
    return Case(
        _id(case, number),
        case["name"],
        case.get("parameters", {}),
        case.get("plus", {}),
        inputs,
        expected,
        selected,
        None if refused in (None, False) else _words(refused),
    )


def _words(refused: Any) -> tuple[str, ...]:
    """The names in `refused`, which is true, a name or several."""
    if isinstance(refused, str):
        return (refused,)
    return tuple(one for one in refused if isinstance(one, str)) if isinstance(refused, list) else ()


def _statistic(statistic: Any, number: int) -> Statistic:
    name = _id(statistic, number)
    if wrong := _problem(statistic, "name", {"parameters": Mapping, "inputs": Mapping}):
        return Statistic(name, problem=wrong)
    logits = statistic.get("inputs", {})
    for key, rows in logits.items():
        rows = rows if isinstance(rows, list) and rows else [None]
        widths = {len(row) if isinstance(row, list) else 0 for row in rows}
        if len(widths) > 1 or 0 in widths or not all(_is_number(x) for row in rows for x in row):
            return Statistic(name, problem=f"inputs.{key} must be rows of as many numbers each")
    return Statistic(name, statistic["name"], statistic.get("parameters", {}), logits, statistic.get("expected"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- schema_version 1


def _of_sums(case: Any, number: int, pairs: Any) -> Case:
    """A case of sums as one of records: sums spread evenly over the tokens."""
    name = _id(case, number)
    if wrong := _problem(case, "name", {"params": Mapping, "per_pair": list, "dloss_dW": list, "dloss_dL": list}):
        return Case(name, problem=wrong)
    try:
        rows = [_pair(pair, i) for i, pair in enumerate(pairs if isinstance(pairs, list) else [])]
    except UserError as error:
        return Case(name, problem=error.message)
    if not rows:
        return Case(name, problem="pairs must be a list of pairs")
    expected: dict[str, Any] = {}
    if case.get("mean") is not None:
        expected["loss"] = case["mean"]
    if "per_pair" in case:
        expected["losses"] = case["per_pair"]
    slopes = {"chosen": case.get("dloss_dW"), "rejected": case.get("dloss_dL")}
    for key, given in slopes.items():
        if given is not None and len(given) != len(rows):
            return Case(name, problem=f"the derivatives of {key} are {len(given)}, and the pairs {len(rows)}")
    if any(given is not None for given in slopes.values()):
        # what is not given is not compared: a null
        by_pair = [
            {side: {SPREAD: None if given is None else given[i]} for side, given in slopes.items()}
            for i in range(len(rows))
        ]
        expected["gradient"] = {"pairs": by_pair}
    return Case(
        name,
        case["name"],
        case.get("params", {}),
        inputs={"pairs": rows},
        expected=expected,
        gradient_scale=float(len(rows)),
        table=OF_SUMS,
    )


def _pair(pair: Any, number: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        place = f"pairs[{number}]"
        keys = [f"policy_{side}", f"ref_{side}", f"len_{side}"]
        if not isinstance(pair, Mapping) or not all(_is_number(pair.get(key)) for key in keys):
            raise UserError(f"{place} must have the numbers {', '.join(keys)}")
        policy, reference, length = (pair[key] for key in keys)
        if not 1 <= length <= MAX_TOKENS or length != int(length):
            raise UserError(f"{place}.{keys[2]} must be a whole number from 1 to {MAX_TOKENS}")
        count = int(length)
        made[side] = {"policy": [policy / count] * count, "reference": [reference / count] * count}
    return made
