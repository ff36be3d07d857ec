"""An objective: named losses with weights and parameters, all computed from one set of log-probs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.combinations import combination_mistakes
from mmpo.objectives.names import AMBIGUOUS, OTHER_NAMES
from mmpo.objectives.parameters import is_schedule, mistakes, nearest, parameters_of, resolved
from mmpo.objectives.registry import OBJECTIVES, Registered, Unit
from mmpo.objectives.stand_in import stand_in
from mmpo.objectives.step_rule import State, Statistics
from mmpo.objectives.term import Term
from mmpo.objectives.visual import CHOSEN, REJECTED
from mmpo.types import Hidden, PairLogps, StepStatistics, ViewSpec

States = dict[str, State]
"""What the losses of an objective remember, by their names."""

VIEWS_OF: Mapping[str, tuple[ViewSpec, ...]] = {"label_logits": (CHOSEN, REJECTED)}
"""The views from which scoring computes a thing that losses read."""


@dataclass(frozen=True)
class Objective:
    """Named losses with their weights and parameters."""

    weights: Mapping[str, float]
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def _entries(self) -> list[tuple[Registered, Mapping[str, Any]]]:
        return [(OBJECTIVES[name], self.parameters.get(name, {})) for name in self.weights]

    def _at_both_ends(self) -> list[tuple[Registered, Mapping[str, Any]]]:
        # What a loss needs may hang on a parameter: of one that moves, what it needs anywhere.
        return [*self.at(0.0)._entries(), *self.at(1.0)._entries()]

    @property
    def reads(self) -> frozenset[str]:
        """What its losses read besides the policy's log-probs: names of `mmpo.objectives.reads.READS`."""
        return frozenset(read for entry, given in self._at_both_ends() for read in entry.reads_of(given))

    def without(self, *of: str) -> Objective:
        """Without the terms of auxiliary answers, say."""
        weights = {name: weight for name, weight in self.weights.items() if self.unit(name) not in of}
        return replace(self, weights=weights)

    def unit(self, name: str) -> Unit:
        """What a value of that term belongs to."""
        return OBJECTIVES[name].unit_of(self.parameters.get(name, {}))

    def on_pairs_alone(self) -> Objective:
        """What can be evaluated on pairs: without the terms of auxiliary answers and of groups of responses. Where all
        are of groups they stay, for pairs can be groups (`mmpo.objectives.groups.with_own_groups`)."""
        return self if self.of_groups_alone else self.without("auxiliary", "groups", "responses")

    @property
    def of_groups_alone(self) -> bool:
        """True if all its terms are of groups of responses, or of single ones in them."""
        return all(self.unit(name) in ("groups", "responses") for name in self.weights)

    @property
    def compares_responses(self) -> bool:
        """True if a term compares the responses of a group: it says nothing about a group of one."""
        return any(self.unit(name) == "groups" for name in self.weights)

    @property
    def reads_mismatched(self) -> bool:
        """True if a term of single responses reads answers of others behind a group's question."""
        return any(
            entry.unit_of(given) == "responses" and entry.rule_of(given) is not None
            for entry, given in self._at_both_ends()
        )

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views that batches must have, each once: those that losses compare with, and those of which something
        that they read is computed."""
        own = [view for entry, given in self._at_both_ends() for view in entry.views_of(given)]
        return tuple(dict.fromkeys([*own, *(view for read in sorted(self.reads) for view in VIEWS_OF.get(read, ()))]))

    @property
    def corruption(self) -> str | None:
        """The corruption of the images that the authors of the losses use; None where they differ or none is used."""
        kinds = {entry.corruption for entry, _ in self._entries()} - {None}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def hidden(self) -> Hidden | None:
        """The hidden states that scoring must return. Raises `UserError` where losses read different ones."""
        asked = {e.name: e.hidden(e.values(given)) for e, given in self.at(0.0)._entries() if e.hidden is not None}
        if len(set(asked.values())) > 1:
            raise UserError(
                f"{' and '.join(asked)} read hidden states of different layers or spans", hint="give them the same"
            )
        return next(iter(asked.values()), None)

    # ---- over a run and over a step

    def at(self, progress: float) -> Objective:
        """The objective after that share of the run: every schedule among its parameters is a number."""
        return replace(
            self,
            weights={name: resolved(weight, progress) for name, weight in self.weights.items()},
            parameters={
                name: {key: resolved(value, progress) for key, value in values.items()}
                for name, values in self.parameters.items()
            },
        )

    def scheduled(self, progress: float) -> dict[str, float]:
        """The numbers of its schedules after that share of the run, by loss and parameter: `dpo.beta`."""
        found: dict[str, float] = {}

        def look(name: str, value: Any) -> None:
            if is_schedule(value):
                found[name] = resolved(value, progress)
            elif isinstance(value, Mapping):
                for key, inner in value.items():
                    look(f"{name}.{key}", inner)

        for name, weight in self.weights.items():
            look(name, {"weight": weight, **self.parameters.get(name, {})})
        return found

    @property
    def reads_step(self) -> bool:
        """True if a loss reads statistics of the whole step, which take a pass before it."""
        return any(entry.rule_of(given) is not None for entry, given in self._at_both_ends())

    def statistics(self, pairs: PairLogps) -> dict[str, Tensor]:
        """This batch's part of the statistics that the losses read: names to numbers [b], without gradient."""
        found: dict[str, Tensor] = {}
        asked: set[Statistics] = set()
        with torch.no_grad():
            for entry, given in self.at(pairs.progress)._entries():
                rule = entry.rule_of(given)
                plain = entry.common("ratio", given) is None
                if rule is None or (plain and rule.statistics in asked):
                    continue
                found |= entry.statistics(pairs, given)
                if plain:
                    asked.add(rule.statistics)
        return found

    def start(self) -> States:
        """The state of every loss that has one, before the first step."""
        rules = {entry.name: entry.rule_of(given) for entry, given in self._at_both_ends()}
        return {name: dict(rule.start()) for name, rule in rules.items() if rule is not None and rule.state}

    def look(
        self, step: StepStatistics, states: States, *, seed: int, training: bool = True
    ) -> tuple[StepStatistics, States]:
        """The step's statistics with what each loss's rule makes of them, and the states after the step: those before
        it without `training`. Schedules must be numbers already (`at`)."""
        found, after = dict(step.found), dict(states)
        for entry, given in self._entries():
            if entry.rule_of(given) is not None:
                found[entry.name], state = entry.look(
                    step.values, states.get(entry.name), given, seed=seed, training=training
                )
                if state:
                    after[entry.name] = state
        return replace(step, found=found), after

    # ---- of a batch

    def terms(self, pairs: PairLogps) -> dict[str, tuple[float, Term]]:
        """Each loss with its weight; the loss is the weighted sum of the terms' means."""
        now = self.at(pairs.progress)
        return {entry.name: (now.weights[entry.name], entry(pairs, given)) for entry, given in now._entries()}

    def loss(self, pairs: PairLogps) -> Tensor:
        """The loss of this batch alone (one rank, no accumulation)."""
        losses = [weight * term.mean for weight, term in self.terms(pairs).values()]
        return torch.stack(losses).sum()

    def metrics(self, pairs: PairLogps) -> dict[str, Term]:
        """Detached metrics under TRL's names, as terms, so that they average exactly over batches and ranks."""
        with torch.no_grad():
            return self._metrics(pairs)

    def _metrics(self, pairs: PairLogps) -> dict[str, Term]:
        chosen, rejected = pairs.chosen, pairs.rejected
        ones = torch.ones_like(chosen.policy_sum)
        metrics = {
            "logps/chosen": Term(chosen.policy_sum, ones),
            "logps/rejected": Term(rejected.policy_sum, ones),
        }
        if chosen.top1 is not None:
            metrics["mean_token_accuracy"] = Term((chosen.top1 & chosen.mask).sum(-1).float(), chosen.lengths.float())
        compares = [
            (entry, given, reward)
            for entry, given in self.at(pairs.progress)._entries()
            if (reward := entry.rewards_of(given)) is not None
        ]
        if compares:
            entry, given, reward = compares[0]
            beta = float(entry.values(given).get(entry.scale, 1.0))
            reward_chosen, reward_rejected = reward(chosen, beta), reward(rejected, beta)
            metrics["rewards/chosen"] = Term(reward_chosen, ones)
            metrics["rewards/rejected"] = Term(reward_rejected, ones)
            metrics["rewards/accuracies"] = Term((reward_chosen > reward_rejected).float(), ones)
            metrics["rewards/margins"] = Term(reward_chosen - reward_rejected, ones)
        return metrics


def build_objective(spec: str | Mapping[str, Mapping[str, Any] | float | None]) -> Objective:
    """`"dpo"`, or `{"dpo": {"beta": 0.1}, "sft": {"weight": 0.5}}`: names to parameters, where `weight` (default 1)
    scales the term, `ratio` says which tokens count in its log-ratios and `times` names weights of pairs.

    Raises `UserError` for an unknown name or parameter, naming the nearest known one.
    """
    if isinstance(spec, str):
        spec = {spec: None}
    if found := spec_mistakes(spec):
        raise UserError("; ".join(message for _, message, _ in found), hint=found[0][2])
    weights: dict[str, Any] = {}
    parameters: dict[str, dict[str, Any]] = {}
    for name, given in spec.items():
        values = _values_of(given)
        weight = values.pop("weight", 1.0)
        weights[name] = weight if isinstance(weight, Mapping) else float(weight)
        parameters[name] = values
    objective = Objective(weights, parameters)
    _try(objective)
    return objective


def spec_mistakes(spec: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str, str | None]]:
    """Mistakes in an objective's names and parameters: (key path in `spec`, message, hint) of each."""
    if not spec:
        return [((), "the objective is empty", f"one of {', '.join(sorted(OBJECTIVES))}")]
    found: list[tuple[tuple[str, ...], str, str | None]] = []
    for name, given in spec.items():
        if name not in OBJECTIVES:
            found.append(((name,), f"unknown objective {name!r}", _meant(name)))
        elif not isinstance(given, Mapping | int | float | None):
            found.append(((name,), f"must be parameters by name (it is {given!r})", f"{name}: {{weight: 1.0}}"))
        else:
            function = OBJECTIVES[name].function
            own = mistakes(function, _values_of(given))
            for key, wrong in own.items():
                hint = None
                if wrong == "unknown parameter":
                    wrong = f"objective {name!r} has no parameter {key!r}"
                    hint = nearest(key, parameters_of(function).model_fields)
                else:
                    wrong = f"{name}.{key} {wrong}"
                found.append(((name, key), wrong, hint))
            found += combination_mistakes(OBJECTIVES[name], _values_of(given), sound=not own)
    return found


def _meant(name: str) -> str:
    """A hint for a name that no objective has: ours of what others call so, else the nearest."""
    if name in AMBIGUOUS:
        return f"say {' or '.join(AMBIGUOUS[name])}"
    if (other := OTHER_NAMES.get(name)) is None:
        return nearest(name, OBJECTIVES)
    terms = {other.main: other.parameters, **other.plus}
    said = ", ".join(
        f"{term}: {{{', '.join(f'{key}: {_plain(of)}' for key, of in own.items())}}}" for term, own in terms.items()
    )
    return f"here it is {said}"


def _plain(value: Any) -> str:
    """A value as a recipe writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values_of(given: Any) -> dict[str, Any]:
    return {"weight": given} if isinstance(given, int | float) else dict(given or {})


def _try(objective: Objective) -> None:
    """Run every loss once now, on one token, not after the model was loaded and the first batch scored."""
    _ = objective.hidden
    for name, (_, term) in objective.terms(stand_in(objective)).items():
        if not isinstance(term, Term):
            raise UserError(f"the objective {name} returns no Term (values and weights) but a {type(term).__name__}")
