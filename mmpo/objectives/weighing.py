"""Two small registries: ratios, which say which tokens of a response count, and how much; and weights of pairs.

    @ratio("ld", paper="arXiv 2409.06411")
    def length_desensitised(response: ResponseLogps, pairs: PairLogps, *, alpha: Share = 0.5) -> Tensor: ...

A ratio gives constant weights u of the tokens of a response, [b, t], or [b, 1] where all its tokens weigh the same: a
loss then meets sum_t u_t p_t and sum_t u_t q_t in the place of the sums. A weight of pairs gives a constant [b] that
multiplies the loss of each pair. The keyword-only parameters are what a recipe can set, as those of losses are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mmpo.objectives.parameters import OwnParameters, parameters_of
from mmpo.registry import Registry
from mmpo.types import PairLogps, ResponseLogps

Weigh = Callable[..., Tensor]
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Weighing:
    """A function that weighs tokens or pairs. `reads` are names of `READS`, or a function from its parameters to them.
    `averages`: its weights of a response add up to about 1, so that losses want a beta of 2 to 10."""

    name: str
    function: Weigh
    reads: tuple[str, ...] | Callable[[Given], tuple[str, ...]] = ()
    averages: bool = False
    paper: str = ""

    @property
    def fields(self) -> Mapping[str, Any]:
        """Its parameters by name, as pydantic knows them."""
        return parameters_of(self.function, OwnParameters).model_fields

    def reads_of(self, given: Given) -> tuple[str, ...]:
        """What it reads with these parameters."""
        if not callable(self.reads):
            return self.reads
        return self.reads({name: field.default for name, field in self.fields.items()} | dict(given))


RATIOS: Registry[Weighing] = Registry("ratios")
PAIR_WEIGHTS: Registry[Weighing] = Registry("weights of pairs")


def ratio(
    name: str,
    *,
    reads: tuple[str, ...] | Callable[[Given], tuple[str, ...]] = (),
    averages: bool = False,
    paper: str = "",
) -> Callable[[Weigh], Weigh]:
    """Make a function of a response and its pairs a ratio; the arguments are the fields of `Weighing`."""

    def add(function: Weigh) -> Weigh:
        RATIOS.add(name, Weighing(name, function, reads, averages, paper), module=function.__module__)
        return function

    return add


def pair_weight(name: str, *, reads: tuple[str, ...] = (), paper: str = "") -> Callable[[Weigh], Weigh]:
    """Make a function of pairs a weight of them; the arguments are the fields of `Weighing`."""

    def add(function: Weigh) -> Weigh:
        PAIR_WEIGHTS.add(name, Weighing(name, function, reads, paper=paper), module=function.__module__)
        return function

    return add


def named(given: Any) -> dict[str, dict[str, Any]]:
    """Names with their parameters from what a recipe says: `ld`, `{ld: {alpha: 0.3}}` or nothing."""
    if isinstance(given, str):
        return {given: {}}
    return {name: dict(values or {}) for name, values in (given or {}).items()}


def weighings(registry: Registry[Weighing], given: Any) -> list[tuple[Weighing, Given]]:
    """Each with its parameters."""
    return [(registry[name], values) for name, values in named(given).items()]


def reweighed(pairs: PairLogps, weigh: Weigh, **values: Any) -> PairLogps:
    """The pairs with each token's log-probs times its weight, policy and reference alike. Masks and lengths stay."""
    chosen, rejected = pairs.chosen, pairs.rejected
    if chosen is rejected:  # a ratio may tell the sides apart
        rejected = copy(rejected)
        pairs = replace(pairs, rejected=rejected)

    def side(response: ResponseLogps) -> ResponseLogps:
        return response.weighed(weigh(response, pairs, **values).detach())

    return replace(pairs, chosen=side(chosen), rejected=side(rejected))
