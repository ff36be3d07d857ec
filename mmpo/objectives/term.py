"""The terms that an objective returns, and the registry of objectives."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.parameters import mistakes, parameters_of
from mmpo.registry import Registry
from mmpo.types import Hidden, PairLogps, ResponseLogps, StepStatistics, ViewSpec


class Term(NamedTuple):
    """A loss or metric as a fraction: sum(values) / sum(weights), `values` and `weights` both [n].

    Kept apart so that the mean is taken once, over the whole global batch: micro-batches and ranks add numerators and
    denominators."""

    values: Tensor
    weights: Tensor

    @property
    def mean(self) -> Tensor:
        return self.values.sum() / self.weights.sum().clamp_min(torch.finfo(torch.float32).tiny)


Rewards = Callable[[ResponseLogps, float], Tensor]
ViewNames = tuple[ViewSpec, ...] | Callable[[Mapping[str, Any]], tuple[ViewSpec, ...]]
"""Views, or a function from the loss's parameters to them."""
Statistics = Callable[[PairLogps], Mapping[str, Tensor]]
"""Numbers of each pair, [b], that a loss reads of all pairs of a step; equal names mean equal numbers."""
StatisticsOf = Callable[[Mapping[str, Any]], Statistics | None]
"""The statistics of a whole step that a loss reads, from its parameters."""
States = Callable[[Mapping[str, Any]], Hidden]
"""The hidden states that a loss reads, from its parameters."""


def log_ratio_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta (log pi - log ref) of each response, [b]."""
    return beta * (response.policy_sum - response.reference_sum)


def log_sums(pairs: PairLogps) -> dict[str, Tensor]:
    """Statistics of summed log-probs: chosen and rejected under the policy, W and L, and the reference, Wr and Lr."""
    chosen, rejected = pairs.chosen, pairs.rejected
    return {
        "W": chosen.policy_sum,
        "L": rejected.policy_sum,
        "Wr": chosen.reference_sum,
        "Lr": rejected.reference_sum,
    }


def of_step(pairs: PairLogps, statistics: Statistics) -> StepStatistics:
    """The statistics of the whole step; of the batch alone where it is a step of its own. Without gradient."""
    if pairs.step is not None:
        return pairs.step
    with torch.no_grad():
        return StepStatistics({name: value.detach() for name, value in statistics(pairs).items()})


def average_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta times the mean token log-prob, [b]: the reward of losses without a reference."""
    return beta * response.policy_sum / response.lengths.clamp_min(1)


@dataclass(frozen=True)
class Registered:
    """A loss function with what the rest of the package needs to know of it: the reward it implies (None for a term
    that compares nothing), the parameter that scales that reward, whether it needs reference log-probs, which further
    views of a pair it compares with (and the corruption that its authors make them with), which hidden states it reads,
    which statistics of the whole step, and whether it reads token weights, auxiliary answers, the divergence of each
    token, or the mean reward so far (which is made from the statistic `log_sums`)."""

    name: str
    function: Callable[..., Term]
    rewards: Rewards | None
    scale: str
    needs_reference: bool
    views: ViewNames = ()
    corruption: str | None = None
    hidden: States | None = None
    needs_weights: bool = False
    needs_auxiliary: bool = False
    needs_kl: bool = False
    needs_past_reward: bool = False
    whole_step: StatisticsOf | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the parameters a recipe may set."""
        fields = parameters_of(self.function).model_fields
        return {name: field.default for name, field in fields.items() if name != "weight"}


OBJECTIVES: Registry[Registered] = Registry("objectives")


def register(
    name: str,
    *,
    rewards: Rewards | None = log_ratio_reward,
    scale: str = "beta",
    needs_reference: bool = True,
    views: ViewNames = (),
    corruption: str | None = None,
    hidden: States | None = None,
    needs_weights: bool = False,
    needs_auxiliary: bool = False,
    needs_kl: bool = False,
    needs_past_reward: bool = False,
    whole_step: StatisticsOf | None = None,
) -> Callable[[Callable[..., Term]], Callable[..., Term]]:
    """Make a loss available by name. Its keyword-only parameters are what a recipe can set."""

    def add(function: Callable[..., Term]) -> Callable[..., Term]:
        entry = Registered(
            name,
            function,
            rewards,
            scale,
            needs_reference,
            views,
            corruption,
            hidden,
            needs_weights,
            needs_auxiliary,
            needs_kl,
            needs_past_reward,
            whole_step,
        )
        OBJECTIVES.add(name, entry, module=function.__module__)
        return function

    return add


@dataclass(frozen=True)
class Objective:
    """Named losses with their weights and parameters, all computed from one set of log-probs."""

    weights: Mapping[str, float]
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def needs_reference(self) -> bool:
        return any(OBJECTIVES[name].needs_reference for name in self.weights)

    @property
    def needs_weights(self) -> bool:
        return any(OBJECTIVES[name].needs_weights for name in self.weights)

    @property
    def needs_auxiliary(self) -> bool:
        return any(OBJECTIVES[name].needs_auxiliary for name in self.weights)

    def on_pairs_alone(self) -> Objective:
        """Without the terms that need auxiliary answers: what can be evaluated on pairs."""
        return Objective(
            {name: weight for name, weight in self.weights.items() if not OBJECTIVES[name].needs_auxiliary},
            self.parameters,
        )

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views that batches must have, each once."""
        return tuple(dict.fromkeys(view for name in self.weights for view in self._views(name)))

    def _views(self, name: str) -> tuple[ViewSpec, ...]:
        views = OBJECTIVES[name].views
        return views(self._values(name)) if callable(views) else views

    def _values(self, name: str) -> dict[str, Any]:
        """All parameters of a loss, defaults included."""
        return OBJECTIVES[name].parameters | dict(self.parameters.get(name, {}))

    @property
    def corruption(self) -> str | None:
        """The corruption of the images that the authors of the losses use; None where they differ or none is used."""
        kinds = {OBJECTIVES[name].corruption for name in self.weights} - {None}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def hidden(self) -> Hidden | None:
        """The hidden states that scoring must return. Raises `UserError` where losses read different ones."""
        asked = {name: states(self._values(name)) for name in self.weights if (states := OBJECTIVES[name].hidden)}
        if len(set(asked.values())) > 1:
            raise UserError(
                f"{' and '.join(asked)} read hidden states of different layers or spans", hint="give them the same"
            )
        return next(iter(asked.values()), None)

    @property
    def needs_kl(self) -> bool:
        return any(OBJECTIVES[name].needs_kl for name in self.weights)

    @property
    def needs_past_reward(self) -> bool:
        return any(
            OBJECTIVES[name].needs_past_reward and self._values(name).get("delta") == "running" for name in self.weights
        )

    @property
    def reads_step(self) -> bool:
        """True if a loss reads statistics of the whole step, which take a pass before it."""
        return bool(self._asked())

    def statistics(self, pairs: PairLogps) -> dict[str, Tensor]:
        """This batch's part of the statistics that the losses read: names to numbers [b], without gradient."""
        with torch.no_grad():
            return {name: value.detach() for asked in self._asked() for name, value in asked(pairs).items()}

    def _asked(self) -> list[Statistics]:
        asked = (OBJECTIVES[name].whole_step for name in self.weights)
        found = (one(self._values(name)) for name, one in zip(self.weights, asked, strict=True) if one is not None)
        return list(dict.fromkeys(one for one in found if one is not None))

    def terms(self, pairs: PairLogps) -> dict[str, tuple[float, Term]]:
        """Each loss with its weight; the loss is the weighted sum of the terms' means."""
        return {
            name: (weight, OBJECTIVES[name].function(pairs, **self.parameters.get(name, {})))
            for name, weight in self.weights.items()
        }

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
        compares = [name for name in self.weights if OBJECTIVES[name].rewards is not None]
        if compares:
            entry = OBJECTIVES[compares[0]]
            values = self._values(entry.name)
            beta = float(values.get(entry.scale, 1.0))
            assert entry.rewards is not None
            reward_chosen, reward_rejected = entry.rewards(chosen, beta), entry.rewards(rejected, beta)
            metrics["rewards/chosen"] = Term(reward_chosen, ones)
            metrics["rewards/rejected"] = Term(reward_rejected, ones)
            metrics["rewards/accuracies"] = Term((reward_chosen > reward_rejected).float(), ones)
            metrics["rewards/margins"] = Term(reward_chosen - reward_rejected, ones)
        return metrics


def build_objective(spec: str | Mapping[str, Mapping[str, Any] | float | None]) -> Objective:
    """`"dpo"`, or `{"dpo": {"beta": 0.1}, "sft": {"weight": 0.5}}`: names to parameters, where `weight` (default 1)
    scales the term.

    Raises `UserError` for an unknown name or parameter, naming the nearest known one.
    """
    if isinstance(spec, str):
        spec = {spec: None}
    if found := spec_mistakes(spec):
        raise UserError("; ".join(message for _, message, _ in found), hint=found[0][2])
    weights: dict[str, float] = {}
    parameters: dict[str, dict[str, Any]] = {}
    for name, given in spec.items():
        values = _values_of(given)
        weights[name] = float(values.pop("weight", 1.0))
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
            found.append(((name,), f"unknown objective {name!r}", _nearest(name, OBJECTIVES)))
        elif not isinstance(given, Mapping | int | float | None):
            found.append(((name,), f"must be parameters by name (it is {given!r})", f"{name}: {{weight: 1.0}}"))
        else:
            function = OBJECTIVES[name].function
            for key, wrong in mistakes(function, _values_of(given)).items():
                hint = None
                if wrong == "unknown parameter":
                    wrong = f"objective {name!r} has no parameter {key!r}"
                    hint = _nearest(key, parameters_of(function).model_fields)
                else:
                    wrong = f"{name}.{key} {wrong}"
                found.append(((name, key), wrong, hint))
    return found


def _values_of(given: Any) -> dict[str, Any]:
    return {"weight": given} if isinstance(given, int | float) else dict(given or {})


def _try(objective: Objective) -> None:
    """Run every loss once now, on one token, not after the model was loaded and the first batch scored."""
    zeros, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    states = torch.ones(1, 1, 1)
    side = ResponseLogps(zeros - 1.0, zeros - 1.0, mask, zeros + 1.0, None, states, states, kl=zeros)
    _ = objective.hidden
    terms = objective.terms(PairLogps(side, side, dict.fromkeys(objective.views, side), auxiliary=side))
    for name, (_, term) in terms.items():
        if not isinstance(term, Term):
            raise UserError(f"the objective {name} returns no Term (values and weights) but a {type(term).__name__}")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(sorted(known))}"
