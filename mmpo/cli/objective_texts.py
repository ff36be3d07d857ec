"""Objectives as `mmpo objectives` prints them."""

from __future__ import annotations

import inspect
import json
from typing import Any

from mmpo.objectives.describing import description, identities, parameters, reads, rewards, shown, state, view_names
from mmpo.objectives.names import OTHER_NAMES, Meant
from mmpo.objectives.registry import OBJECTIVES, Registered

NAME, PARAMETERS, READS = 17, 60, 20
"""Widths of the columns of the list."""


def row(entry: Registered) -> str:
    """One line: name, parameters with defaults, what it reads, source."""
    given = ", ".join(
        f"{name}" if kind.get("required") else f"{name} {shown(kind['default'])}"
        for name, kind in parameters(entry).items()
    )
    columns = f"{entry.name:<{NAME}} {given or '-':<{PARAMETERS}} {' '.join(reads(entry)) or '-':<{READS}}"
    return f"{columns} {entry.paper}".rstrip()


def recipe(meant: Meant) -> str:
    """How a recipe's `train` section names it: what differs from the defaults, and what must be given."""
    terms = []
    for name, given in meant.spec.items():
        missing = dict.fromkeys(OBJECTIVES[name].required, "…")
        inner = ", ".join(f"{key}: {shown(value)}" for key, value in {**missing, **given}.items())
        terms.append(f"{name}: {{{inner}}}")
    return f"train:\n  objective: {{{', '.join(terms)}}}"


def other_names(name: str) -> list[str]:
    return [other for other, one in OTHER_NAMES.items() if one.main == name and other != name and not one.plus]


def details(asked: str, meant: Meant) -> dict[str, Any]:
    """`mmpo objectives show --json`."""
    entry = OBJECTIVES[meant.name]
    return {
        **description(entry),
        "asked": asked,
        "objective": meant.spec,
        "text": inspect.getdoc(entry.function),
        "identities": identities(entry),
        "other_names": other_names(entry.name),
        "recipe": recipe(meant),
    }


def page(asked: str, meant: Meant) -> str:
    """`mmpo objectives show`."""
    entry = OBJECTIVES[meant.name]
    lines = [entry.name]
    if asked != entry.name:
        lines[0] = f"{asked} is {json.dumps(meant.spec)}"
    lines += ["", *(inspect.getdoc(entry.function) or "").splitlines(), ""]
    if entry.paper:
        lines.append(f"source      {entry.paper}")
    lines.append(f"reads       {' '.join(reads(entry)) or 'the policy alone'}")
    if views := view_names(entry):
        lines.append(f"views       {', '.join(views)}")
    lines.append(f"remembers   {', '.join(state(entry)) or 'nothing'}")
    lines.append(f"reward      {rewards(entry) or 'none: it compares nothing'}")
    lines += [f"is          {one}" for one in identities(entry)]
    if others := other_names(entry.name):
        lines.append(f"also called {', '.join(others)}")
    lines += ["", "parameters"]
    for name, kind in parameters(entry).items():
        choices = [shown(choice) for choice in kind.get("choices", ())]
        allowed = " or ".join([*([kind["range"]] if "range" in kind else []), *([", ".join(choices)] if choices else [])])
        default = "must be given" if kind.get("required") else shown(kind["default"])
        lines.append(f"  {name:<18} {default:<16} {allowed}")
    lines += ["  weight             1                >= 0; of the term in a sum", "", recipe(meant)]
    return "\n".join(lines)
