"""The numbers that scoring needs for what an objective reads, from the parameters of its losses."""

from __future__ import annotations

from collections.abc import Mapping

from mmpo.errors import UserError
from mmpo.objectives.build import Objective
from mmpo.objectives.parameters import is_schedule
from mmpo.objectives.registry import OBJECTIVES
from mmpo.types import ScoringOptions

PARAMETERS: Mapping[str, tuple[str, str]] = {"tail_kl": ("tail", "mu"), "eos": ("eos_temperature", "gamma")}
"""What is read -> the field of `ScoringOptions` that it goes by, and the loss's parameter that gives it."""


def scoring_options(objective: Objective) -> ScoringOptions:
    """Raises `UserError` where two losses want different numbers (a token has one), or one that moves during a run."""
    found: dict[str, tuple[str, float]] = {}
    for name in objective.weights:
        entry, given = OBJECTIVES[name], objective.parameters.get(name, {})
        values = entry.values(given)
        for read in entry.reads_of(given):
            option, parameter = PARAMETERS.get(read, ("", ""))
            if parameter not in values:
                continue
            value = values[parameter]
            if is_schedule(value):
                raise UserError(f"{name}.{parameter} is the same in all steps", hint="give one number")
            other, before = found.setdefault(option, (name, float(value)))
            if before != value:
                raise UserError(
                    f"{name}.{parameter} is {value} and that of {other} {before}: what both read is computed once",
                    hint="give them the same",
                )
    return ScoringOptions(**{option: value for option, (_, value) in found.items()})
