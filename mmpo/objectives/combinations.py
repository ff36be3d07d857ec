"""Which ratios and weights of pairs go with which losses, and the mistakes in what a recipe says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpo.objectives.parameters import OwnParameters, mistakes, nearest, resolved
from mmpo.objectives.registry import Registered, Values
from mmpo.objectives.weighing import PAIR_WEIGHTS, RATIOS, Weighing, named
from mmpo.registry import Registry

Mistake = tuple[tuple[str, ...], str, str | None]
"""Key path, message, hint."""


def combination_mistakes(entry: Registered, given: Values, *, sound: bool) -> list[Mistake]:
    """Mistakes in a loss's `ratio` and `times`. `sound`: its own parameters have none."""
    found: list[Mistake] = []
    for key, registry, kind, example in (
        ("ratio", RATIOS, "ratio", "ratio: {ld: {alpha: 0.3}}"),
        ("times", PAIR_WEIGHTS, "weight of pairs", "times: {madpo: {tau: 2.0}}"),
    ):
        if entry.common(key, given) is None:
            continue
        wrong = _mistakes_in(entry.name, key, given[key], registry, kind, example)
        if not wrong and sound and (refusal := _REFUSALS[key](entry, resolved(given, 0.0))):
            wrong = [((entry.name, key), f"{entry.name}.{key} {refusal[0]}", refusal[1])]
        found += wrong
    return found


def _mistakes_in(
    loss: str, key: str, given: Any, registry: Registry[Weighing], kind: str, example: str
) -> list[Mistake]:
    at = (loss, key)
    inner = given.values() if isinstance(given, Mapping) else ()
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Mapping) else []
    if (
        not given
        or not names
        or not all(isinstance(name, str) for name in names)
        or not all(isinstance(values, Mapping | None) for values in inner)
    ):
        return [(at, f"{loss}.{key} must be a {kind} by name, with its parameters (it is {given!r})", example)]
    found: list[Mistake] = []
    for name, values in named(given).items():
        place = at if isinstance(given, str) else (*at, name)
        if name not in registry:
            found.append((place, f"{loss}.{key}: unknown {kind} {name!r}", nearest(name, registry)))
            continue
        for parameter, wrong in mistakes(registry[name].function, values, OwnParameters).items():
            path = (*place, parameter) if place != at else (*at, name, parameter)
            if wrong == "unknown parameter":
                known = registry[name].fields
                hint = nearest(parameter, known) if known else f"{key}: {name}"
                found.append((path, f"the {kind} {name!r} has no parameter {parameter!r}", hint))
            else:
                told = f"{loss}.{key}.{name}.{parameter} {wrong}"
                found.append(
                    (path if isinstance(given, Mapping) else at, told, f"{key}: {{{name}: {{{parameter}: …}}}}")
                )
    if key == "ratio" and len(given) > 1 and isinstance(given, Mapping) and not found:
        found.append((at, f"{loss}.ratio takes one ratio (it is given {' and '.join(given)})", example))
    return found


Refusal = tuple[str, str | None] | None
"""Why a loss does not go with it, to be read behind `dpo.ratio`, and a remedy."""


def _no_ratio(entry: Registered, given: Values) -> Refusal:
    """Why a loss has no place for a ratio."""
    link, unit = entry.link, entry.unit_of(given)
    links = "put it on a function of two log-ratios, e.g. dpo: {ratio: …}"
    if unit != "pairs":
        return f"weighs tokens of pairs, and the term is one of {_others(unit)}", links
    if callable(link):
        return (wrong, None) if (wrong := link(entry.values(given))) else None
    if link:
        return None
    reads = entry.reads_of({**given, "ratio": None, "times": None})
    if entry.views_of(given):
        return "weighs the tokens of chosen and rejected, and this loss compares further renderings of them", links
    if "reference" not in reads:
        return "weighs log-ratios to a reference, and this loss has none", links
    if entry.rewards is None:
        return "weighs two log-ratios, and this loss does not compare them", links
    if entry.supervised:
        return "weighs log-ratios, and this loss also has a term that is none", f"{links}, beside sft"
    if {"weights", "turns", "steps", "segments", "positions"} & set(reads):
        return "says which tokens count, and this loss says so itself", links
    if entry.averages_of({**given, "ratio": None}) or "lengths" in reads:
        return "says which tokens count, and this loss reads lengths itself", links
    if entry.rule_of(given) is not None:
        return "weighs the two log-ratios of a pair, and here those of several pairs meet", links
    return "goes with functions of two plain log-ratios, and this loss is none", links


def _no_times(entry: Registered, given: Values) -> Refusal:
    """Why weights of pairs must not multiply the values of a loss."""
    if (unit := entry.unit_of(given)) != "pairs":
        return f"multiplies the losses of pairs, and the term is one of {_others(unit)}", None
    if entry.supervised:
        return (
            "multiplies terms of preference only, and this one is or contains a term that compares nothing",
            "put it on a loss that only compares; likelihood has a term of its own, sft",
        )
    if entry.rule_of(given) is not None and not entry.link:
        return "multiplies losses of single pairs, and here the pairs of a step depend on each other", None
    return None


def _others(unit: str) -> str:
    names = {"auxiliary": "other answers", "groups": "groups of responses", "responses": "single responses"}
    return names[unit]


_REFUSALS = {"ratio": _no_ratio, "times": _no_times}
