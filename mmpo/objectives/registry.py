"""The registry of objectives: what the rest of the package needs to know of a loss, said where the loss is.

    @objective("odpo", reads=("reference", "scores"), paper="arXiv 2402.10571", spec="4")
    def odpo(pairs: PairLogps, *, beta: Positive = 0.5, alpha: Positive = 1.0) -> Term: ...

The keyword-only parameters are what a recipe can set: names, types and ranges stand in the signature. Everything else
(recipe checks, `mmpo objectives`, docs, `mmpo.losses`, which numbers scoring computes) follows from this record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.parameters import parameters_of
from mmpo.objectives.reads import READS
from mmpo.objectives.step_rule import State, StepRule, seeded_draw
from mmpo.objectives.term import Term, log_ratio_reward
from mmpo.registry import Registry
from mmpo.types import Hidden, PairLogps, ResponseLogps, StepStatistics, ViewSpec

Values = Mapping[str, Any]
"""All parameters of a loss, defaults included."""

Rewards = Callable[[ResponseLogps, float], Tensor]


@dataclass(frozen=True)
class RewardsBy:
    """The reward of a loss whose parameters decide on it."""

    choose: Callable[[Values], Rewards]


Reads = tuple[str, ...] | Callable[[Values], tuple[str, ...]]
"""Names of `READS`, or a function from the loss's parameters to them."""
ViewNames = tuple[ViewSpec, ...] | Callable[[Values], tuple[ViewSpec, ...]]
HiddenOf = Callable[[Values], Hidden]
"""The hidden states that a loss reads, from its parameters."""
Rules = StepRule | Callable[[Values], StepRule | None] | None
"""The step rule of a loss, or a function from its parameters to it."""


@dataclass(frozen=True)
class Identity:
    """With the parameters `given` the loss is `other` with `others`: `mmpo objectives show` says it, a test checks it.
    `same` are parameters that both get, as given."""

    given: Values
    other: str
    others: Values = field(default_factory=dict)
    same: tuple[str, ...] = ("beta",)


@dataclass(frozen=True)
class Registered:
    """A loss function with what the rest of the package needs to know of it: what it reads, the reward it implies (None
    for a term that compares nothing) and the parameter that scales that reward, which further views of a pair it
    compares with (and the corruption that its authors make them with), which hidden states it reads, what it needs of
    the whole step and remembers, where it was published, and which identities hold. `of`: what a value of its term
    belongs to. `averages`: it compares log-probs per token, and wants a beta of 2 to 10."""

    name: str
    function: Callable[..., Term]
    rewards: Rewards | RewardsBy | None = log_ratio_reward
    scale: str = "beta"
    reads: Reads = ("reference",)
    views: ViewNames = ()
    corruption: str | None = None
    hidden: HiddenOf | None = None
    step: Rules = field(default=None, hash=False)
    of: Literal["pairs", "auxiliary", "groups"] = "pairs"
    averages: bool | Callable[[Values], bool] = False
    paper: str = ""
    spec: str = ""
    identities: tuple[Identity, ...] = field(default=(), hash=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the parameters a recipe may set, without those that it must."""
        fields = parameters_of(self.function).model_fields
        return {n: field.default for n, field in fields.items() if n not in COMMON and not field.is_required()}

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the parameters that have no default: a recipe must set them."""
        fields = parameters_of(self.function).model_fields
        return tuple(name for name, field in fields.items() if field.is_required())

    def values(self, given: Values) -> dict[str, Any]:
        """All parameters, defaults included."""
        return self.parameters | {name: value for name, value in given.items() if name not in COMMON}

    def reads_of(self, given: Values) -> tuple[str, ...]:
        """What the loss reads with these parameters."""
        return self.reads(self.values(given)) if callable(self.reads) else self.reads

    def views_of(self, given: Values) -> tuple[ViewSpec, ...]:
        return self.views(self.values(given)) if callable(self.views) else self.views

    def rewards_of(self, given: Values) -> Rewards | None:
        """The reward that is logged with these parameters."""
        return self.rewards.choose(self.values(given)) if isinstance(self.rewards, RewardsBy) else self.rewards

    def averages_of(self, given: Values) -> bool:
        return self.averages(self.values(given)) if callable(self.averages) else self.averages

    def rule_of(self, given: Values) -> StepRule | None:
        return self.step(self.values(given)) if callable(self.step) else self.step

    def __call__(self, pairs: PairLogps, given: Values) -> Term:
        """The term of a batch with parameters as a recipe gives them. Without statistics of the step the batch is a
        step of its own, and nothing is remembered."""
        rule = self.rule_of(given)
        if rule is not None and (pairs.step is None or self.name not in pairs.step.found):
            step = pairs.step or StepStatistics(_detached(rule.statistics(pairs)))
            found, _ = self.look(step.values, pairs.state.get(self.name), given, seed=0)
            pairs = replace(pairs, step=replace(step, found={**step.found, self.name: found}))
        return self.function(pairs, **{name: value for name, value in given.items() if name not in COMMON})

    def look(
        self, values: Mapping[str, Tensor], state: State | None, given: Values, *, seed: int, draw: Any = None
    ) -> tuple[Mapping[str, Tensor], State]:
        """What the loss reads of a whole step, of which all pairs' `values` [n] are given, and its state after it."""
        rule = self.rule_of(given)
        assert rule is not None
        state = {**rule.start(), **(state or {})}
        if rule.look is None:
            return {}, state
        return rule.look(values, state, self.values(given), draw or seeded_draw(seed))


COMMON = ("weight",)
"""Parameters that every loss has."""

OBJECTIVES: Registry[Registered] = Registry("objectives")


def objective(
    name: str,
    *,
    reads: Reads = ("reference",),
    rewards: Rewards | RewardsBy | None = log_ratio_reward,
    scale: str = "beta",
    views: ViewNames = (),
    corruption: str | None = None,
    hidden: HiddenOf | None = None,
    step: Rules = None,
    of: Literal["pairs", "auxiliary", "groups"] = "pairs",
    averages: bool | Callable[[Values], bool] = False,
    paper: str = "",
    spec: str = "",
    identities: Sequence[Identity] = (),
) -> Callable[[Callable[..., Term]], Callable[..., Term]]:
    """Make a loss available by name; the arguments are the fields of `Registered`. Raises `UserError` for a name that
    is taken and for a read that nobody provides."""
    if not callable(reads) and (unknown := [read for read in reads if read not in READS]):
        raise UserError(
            f"the objective {name} reads {unknown[0]!r}, which nothing provides", hint=f"one of {', '.join(READS)}"
        )

    def add(function: Callable[..., Term]) -> Callable[..., Term]:
        entry = Registered(
            name, function, rewards, scale, reads, views, corruption, hidden, step, of, averages, paper, spec,
            tuple(identities),
        )  # fmt: skip
        OBJECTIVES.add(name, entry, module=function.__module__)
        return function

    return add


def _detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
