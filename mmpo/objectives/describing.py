"""What `mmpo objectives` says of a loss: its parameters with their ranges, what it reads, what it remembers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mmpo.errors import UserError
from mmpo.objectives.build import Objective
from mmpo.objectives.parameters import OwnParameters, parameters_of
from mmpo.objectives.reads import READS
from mmpo.objectives.registry import OBJECTIVES, Registered, Values
from mmpo.objectives.stand_in import with_blanks
from mmpo.types import PairLogps, ResponseLogps

BESIDE_READS = {
    "state": "a running state, saved in checkpoints and frozen in evaluation",
    "batch": "the other pairs of the optimizer step",
    "hid": "hidden states",
    "view": "further renderings of a pair, scored by both models",
    "mism": "mismatched rows: questions with the answers of others",
}
"""Codes of what the registry keeps in fields of their own."""
LONG_NAMES = {"hidden": "hid", "views": "view", "step": "batch", "mismatched": "mism"}


def section_order(entry: Registered) -> tuple[int, tuple[float, ...], str]:
    """Sorts by the section of the specification, then by name: numbers, other documents, none."""
    word, _, number = entry.spec.rpartition(" ")
    numbers = tuple(float(part) for part in re.findall(r"\d+", number))
    rank = 3 if not numbers else {"": 0, "VLM": 1}.get(word, 2)
    return rank, numbers, entry.name


def listed(needs: str | None = None) -> list[Registered]:
    """All objectives in the order of the specification, or those that read one thing, by its code or its long name.
    Raises `UserError` for a thing that nothing reads by that name."""
    entries = sorted(OBJECTIVES.values(), key=section_order)
    if needs is None:
        return entries
    codes = {**{read.name: read.code for read in READS.values()}, **LONG_NAMES}
    known = {*codes.values(), *BESIDE_READS}
    code = codes.get(needs, needs)
    if code not in known:
        raise UserError(f"no objective can read {needs!r}", hint=f"one of {', '.join(sorted(known))}")
    return [entry for entry in entries if code in reads(entry)]


# ---- parameters


def parameters(entry: Registered) -> dict[str, dict[str, Any]]:
    """Each parameter's default, and its range or its choices."""
    schema = parameters_of(entry.function, OwnParameters).model_json_schema()
    kinds, required = schema["properties"], schema.get("required", ())
    return {
        name: {"default": kind.get("default"), **({"required": True} if name in required else {}), **_allowed(kind)}
        for name, kind in kinds.items()
    }


def _allowed(kind: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in kind.get("anyOf", [kind]):
        if "enum" in one or "const" in one:
            found.setdefault("choices", []).extend(one.get("enum", [one.get("const")]))
        elif one.get("type") == "boolean":
            found.setdefault("choices", []).extend([True, False])
        elif one.get("type") == "null":
            found.setdefault("choices", []).append(None)
        elif one.get("type") in ("number", "integer"):
            found["range"] = _range(one)
        elif one.get("type") == "array":
            found["range"] = "a list of numbers"
        else:
            found["range"] = str(one.get("type", "any"))
    return found


def _range(kind: Mapping[str, Any]) -> str:
    """`(0, 1]`, `> 0`, `>= 0` …"""
    low, high = kind.get("minimum"), kind.get("maximum")
    above, below = kind.get("exclusiveMinimum"), kind.get("exclusiveMaximum")
    whole = "whole, " if kind["type"] == "integer" else ""
    least, most = (low if above is None else above), (high if below is None else below)
    if least is not None and most is not None:
        return f"{whole}{'[' if above is None else '('}{least:g}, {most:g}{']' if below is None else ')'}"
    if least is not None:
        return f"{whole}{'>=' if above is None else '>'} {least:g}"
    if most is not None:
        return f"{whole}{'<=' if below is None else '<'} {most:g}"
    return f"{whole}any".removesuffix(", any") if whole else "any"


def shown(value: Any) -> str:
    """A parameter's value as a recipe writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- what it reads and remembers


def settings(entry: Registered) -> Iterator[dict[str, Any]]:
    """The loss's default parameters, and each choice instead of a default: what is read may depend on it."""
    base = dict.fromkeys(entry.required, 1.0)
    yield base
    for name, kind in parameters(entry).items():
        for choice in kind.get("choices", ()):
            if choice is not None and choice != kind["default"]:
                yield {**base, name: choice}


def reads(entry: Registered) -> list[str]:
    """Codes of all that the loss reads with some of its parameters, in the order of the vocabulary."""
    found: dict[str, None] = {}
    for given in settings(entry):
        found.update((READS[name].code, None) for name in entry.reads_of(given))
        views = entry.views_of(given)
        found.update(("mism" if view.side == "other" else "view", None) for view in views)
        if entry.hidden is not None:
            found["hid"] = None
        rule = entry.rule_of(given)
        if rule is not None:
            found.update((code, None) for code in ("batch", *(["state"] if rule.state else [])))
    order = [*(read.code for read in READS.values()), *BESIDE_READS]
    return sorted(found, key=order.index)


def view_names(entry: Registered) -> list[str]:
    return list(dict.fromkeys(view.name for given in settings(entry) for view in entry.views_of(given)))


def state(entry: Registered) -> list[str]:
    """Names of what the loss remembers of earlier steps."""
    rules = [entry.rule_of(given) for given in settings(entry)]
    return list(dict.fromkeys(name for rule in rules if rule is not None for name in rule.state))


def rewards(entry: Registered) -> str | None:
    """The reward that is logged of each response; None where the loss compares nothing."""
    found = dict.fromkeys(
        reward.__name__ for given in settings(entry) if (reward := entry.rewards_of(given)) is not None
    )
    scale = entry.scale if entry.scale in parameters(entry) else "1"
    forms = {
        "log_ratio_reward": f"{scale} (log pi - log ref), summed over tokens",
        "average_reward": f"{scale} log pi, per token",
        "summed_reward": f"{scale} log pi, summed over tokens",
    }
    return " or ".join(forms.get(name, name) for name in found) or None


def sums(entry: Registered) -> bool:
    """True if the loss needs no more than sums of log-probs, lengths and scores: not what single tokens have."""
    if not {*reads(entry)} <= {"ref", "len", "sc", "aux", "samples", "group", "view", "mism", "batch", "state"}:
        return False
    return torch.allclose(_of_tokens(entry, swapped=False), _of_tokens(entry, swapped=True))


def _of_tokens(entry: Registered, swapped: bool) -> torch.Tensor:
    """The loss of two responses of three and one tokens; `swapped`, with the longer one's tokens in another order."""

    def side(logps: list[float]) -> ResponseLogps:
        numbers = torch.tensor([logps[::-1] if swapped and 0.0 not in logps else logps], dtype=torch.float64)
        return with_blanks(ResponseLogps(numbers, numbers / 2, numbers != 0))

    long, short = side([-1.0, -2.0, -4.0]), side([-1.5, 0.0, 0.0])
    given = next(settings(entry))
    score = torch.tensor([0.75], dtype=torch.float64)
    objective = Objective({entry.name: 1.0}, {entry.name: given})
    pairs = PairLogps(
        long,
        short,
        dict.fromkeys(objective.views, short),
        auxiliary=long,
        scores={"chosen": score, "rejected": score / 3, "similarity": score, "weight": score},
        samples=long,
        samples_of=torch.zeros(1, dtype=torch.long),
    )
    return (
        entry(pairs, given).values.detach() if entry.unit_of(given) not in ("groups", "responses") else torch.zeros(1)
    )


def description(entry: Registered) -> dict[str, Any]:
    """One objective as `--json` prints it."""
    return {
        "name": entry.name,
        "parameters": parameters(entry),
        "reads": reads(entry),
        "views": view_names(entry),
        "state": state(entry),
        "rewards": rewards(entry),
        "scale": entry.scale if entry.scale in parameters(entry) else None,
        "paper": entry.paper or None,
        "spec": entry.spec or None,
        "sums": sums(entry),
    }


# ---- how it is used


def warning(entry: Registered, given: Values) -> str | None:
    """What does not fit although it is allowed: a loss of averages with the beta of a loss of sums."""
    beta = entry.values(given).get("beta")
    if not entry.averages_of(given) or isinstance(beta, Mapping) or beta is None or beta >= 1:
        return None
    return f"{entry.name} compares averages per token: beta {beta:g} hardly trains, 2 to 10 is usual"


def identities(entry: Registered) -> list[str]:
    """What the loss is with some of its parameters: `dpo for eps 0`."""
    return [f"{_called(one.other, one.others)} for {_spelled(one.given)}" for one in entry.identities]


def _called(name: str, given: Values) -> str:
    return f"{name} with {_spelled(given)}" if given else name


def _spelled(given: Values) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in given.items())
