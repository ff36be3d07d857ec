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

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.parameters import OwnParameters, Parameters, parameters_of
from mmpo.objectives.reads import READS
from mmpo.objectives.step_rule import Draw, State, StepRule, seeded_draw
from mmpo.objectives.term import Term, log_ratio_reward
from mmpo.objectives.weighing import PAIR_WEIGHTS, RATIOS, reweighed, weighings
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
Unit = Literal["pairs", "auxiliary", "groups", "responses"]
Of = Unit | Callable[[Values], Unit]
"""What a value of a loss belongs to: a pair, another answer, a group of responses, a single response of the groups; or
a function from its parameters to it."""
Links = bool | Callable[[Values], str]
"""Whether a loss is a link, or a function from its parameters to what is against it (empty: nothing)."""


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
    belongs to. `averages`: it compares log-probs per token, and wants a beta of 2 to 10. `link`: it is a function of
    two log-ratios (and numbers of the pair), so that any `ratio` may stand in them. `supervised`: it is, or has in it,
    a term that compares nothing, a likelihood or a divergence, which weights of pairs must not touch."""

    name: str
    function: Callable[..., Term]
    rewards: Rewards | RewardsBy | None = log_ratio_reward
    scale: str = "beta"
    reads: Reads = ("reference",)
    views: ViewNames = ()
    corruption: str | None = None
    hidden: HiddenOf | None = None
    step: Rules = field(default=None, hash=False)
    of: Of = "pairs"
    averages: bool | Callable[[Values], bool] = False
    paper: str = ""
    spec: str = ""
    identities: tuple[Identity, ...] = field(default=(), hash=False)
    link: Links = False
    supervised: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the parameters a recipe may set, without those that it must."""
        return {name: field.default for name, field in self.fields.items() if not field.is_required()}

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the parameters that have no default: a recipe must set them."""
        return tuple(name for name, field in self.fields.items() if field.is_required())

    @property
    def fields(self) -> Mapping[str, Any]:
        """The loss's own parameters by name, as pydantic knows them. One may have the name of a common one, which the
        loss then does not have (gamma_po's `ratio` is a number)."""
        return parameters_of(self.function, OwnParameters).model_fields

    def has_common(self, name: str) -> bool:
        return name not in self.fields

    def common(self, name: str, given: Values) -> Any:
        """The parameter that every loss has, as given."""
        return given.get(name) if self.has_common(name) else None

    def _own_of(self, given: Values) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in COMMON or not self.has_common(name)}

    def values(self, given: Values) -> dict[str, Any]:
        """All parameters, defaults included."""
        return self.parameters | self._own_of(given)

    def reads_of(self, given: Values) -> tuple[str, ...]:
        """What the loss reads with these parameters, its ratio and weights of pairs included."""
        own = self.reads(self.values(given)) if callable(self.reads) else self.reads
        weighed = [
            *weighings(RATIOS, self.common("ratio", given)),
            *weighings(PAIR_WEIGHTS, self.common("times", given)),
        ]
        return tuple(dict.fromkeys((*own, *(read for by, values in weighed for read in by.reads_of(values)))))

    def views_of(self, given: Values) -> tuple[ViewSpec, ...]:
        return self.views(self.values(given)) if callable(self.views) else self.views

    def unit_of(self, given: Values) -> Unit:
        """What a value of its term belongs to with these parameters."""
        return self.of(self.values(given)) if callable(self.of) else self.of

    def rewards_of(self, given: Values) -> Rewards | None:
        """The reward that is logged with these parameters."""
        return self.rewards.choose(self.values(given)) if isinstance(self.rewards, RewardsBy) else self.rewards

    def averages_of(self, given: Values) -> bool:
        own = self.averages(self.values(given)) if callable(self.averages) else self.averages
        return own or any(by.averages for by, _ in weighings(RATIOS, self.common("ratio", given)))

    def rule_of(self, given: Values) -> StepRule | None:
        return self.step(self.values(given)) if callable(self.step) else self.step

    def __call__(self, pairs: PairLogps, given: Values) -> Term:
        """The term of a batch with parameters as a recipe gives them. Without statistics of the step the batch is a
        step of its own, and nothing is remembered."""
        weighed = self.reweighed(pairs, given)
        if (rule := self.rule_of(given)) is not None:
            weighed = replace(weighed, step=self._looked(weighed, rule, given))
        term = self.function(weighed, **self._own_of(given))
        weights = self.pair_weights(pairs, given)
        if weights is None:
            return term
        if term.values.shape != weights.shape:
            raise UserError(
                f"times multiplies values of pairs, and {self.name} has {len(term.values)} for {len(pairs)} pairs"
            )
        return Term(term.values * weights, term.weights)

    def _looked(self, weighed: PairLogps, rule: StepRule, given: Values) -> StepStatistics:
        """The step as the loss reads it: its own numbers, and what its rule makes of them where no step was looked at
        before."""
        if weighed.step is None:
            step = StepStatistics(_detached(rule.statistics(weighed)))
        else:
            step = replace(weighed.step, values=self.own(weighed.step.values, given))
        if self.name in step.found:
            return step
        found, _ = self._ruled(step.values, weighed.state.get(self.name), rule, given, seeded_draw(0))
        return replace(step, found={**step.found, self.name: found})

    def reweighed(self, pairs: PairLogps, given: Values) -> PairLogps:
        """The pairs as the loss meets them: each token's log-prob times its weight in the `ratio`."""
        for by, values in weighings(RATIOS, self.common("ratio", given)):
            pairs = reweighed(pairs, by.function, **values)
        return pairs

    def pair_weights(self, pairs: PairLogps, given: Values) -> Tensor | None:
        """The product of the weights of pairs that `times` names, [b], a constant. They are made of the pairs as they
        are, whatever the ratio."""
        named = weighings(PAIR_WEIGHTS, self.common("times", given))
        weights = [by.function(pairs, **values).detach() for by, values in named]
        return torch.stack(weights).prod(0) if weights else None

    # ---- statistics of a whole step: those of a loss with a ratio are its own, under names of its own

    def statistics(self, pairs: PairLogps, given: Values) -> dict[str, Tensor]:
        """This batch's part of the statistics of a step that the loss reads [b]."""
        rule = self.rule_of(given)
        if rule is None:
            return {}
        found = rule.statistics(self.reweighed(pairs, given))
        return {self._prefix(given) + name: value.detach() for name, value in found.items()}

    def own(self, values: Mapping[str, Tensor], given: Values) -> Mapping[str, Tensor]:
        """Of the statistics of a step those that are the loss's own."""
        prefix = self._prefix(given)
        if not prefix:
            return values
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    def _prefix(self, given: Values) -> str:
        return f"{self.name}/" if self.common("ratio", given) else ""

    def look(
        self,
        values: Mapping[str, Tensor],
        state: State | None,
        given: Values,
        *,
        seed: int,
        draw: Any = None,
        training: bool = True,
    ) -> tuple[Mapping[str, Tensor], State]:
        """What the loss reads of a whole step, of which all pairs' `values` [n] are given, and its state after it.
        Without `training` the pairs are only evaluated: they leave the state as it is."""
        rule = self.rule_of(given)
        assert rule is not None
        draw = draw or seeded_draw(seed)
        return self._ruled(self.own(values, given), state, rule, given, draw, training=training)

    def _ruled(
        self,
        own: Mapping[str, Tensor],
        state: State | None,
        rule: StepRule,
        given: Values,
        draw: Draw,
        *,
        training: bool = True,
    ) -> tuple[Mapping[str, Tensor], State]:
        state = {**rule.start(), **(state or {})}
        return rule.looked(own, state, self.values(given), draw, training=training)


COMMON = tuple(Parameters.model_fields)
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
    of: Of = "pairs",
    averages: bool | Callable[[Values], bool] = False,
    paper: str = "",
    spec: str = "",
    identities: Sequence[Identity] = (),
    link: Links = False,
    supervised: bool = False,
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
            tuple(identities), link, supervised,
        )  # fmt: skip
        OBJECTIVES.add(name, entry, module=function.__module__)
        return function

    return add


def _detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
