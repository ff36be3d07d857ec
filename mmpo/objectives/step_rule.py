"""Losses in which the pairs of an optimizer step depend on each other, or on earlier steps.

Before the first loss of a step the trainer makes one pass over all its pairs, without gradient. `statistics` names
the numbers of each pair that are gathered, over all micro-batches and processes; `look` makes of them what the loss
reads, and the state after the step. So a loss depends neither on how a step is cut nor on where a run was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mmpo.types import PairLogps

State = Mapping[str, Tensor]
"""What a loss remembers: numbers by name, [] or [k], float64."""

Statistics = Callable[[PairLogps], Mapping[str, Tensor]]
"""Numbers of each pair, [b]; equal names mean equal numbers."""


class Draw(Protocol):
    """`count` places of [n] without replacement, with probabilities in proportion to `weights`: true where drawn."""

    def __call__(self, weights: Tensor, count: int) -> Tensor: ...


class Looked(NamedTuple):
    """What a loss reads of a step, [n] or [] by name, and its state after the step."""

    found: Mapping[str, Tensor]
    state: State


StepLook = Callable[[Mapping[str, Tensor], State, Mapping[str, Any], Draw], Looked]


def log_sums(pairs: PairLogps) -> dict[str, Tensor]:
    """Statistics of summed log-probs: chosen and rejected under the policy, W and L, and the reference, Wr and Lr."""
    chosen, rejected = pairs.chosen, pairs.rejected
    return {
        "W": chosen.policy_sum,
        "L": rejected.policy_sum,
        "Wr": chosen.reference_sum,
        "Lr": rejected.reference_sum,
    }


def found(pairs: PairLogps, objective: str, name: str) -> Tensor:
    """What the step rule of that objective found: the numbers of the pairs at hand [b], or one of the step []."""
    assert pairs.step is not None  # the registry sees to it
    value = pairs.step.found[objective][name].to(pairs.chosen.policy)
    return value[pairs.step.own] if value.dim() else value


@dataclass(frozen=True)
class StepRule:
    """What a loss needs of a whole step. `state` are the names and values of its memory before the first step.
    `look_without_training`: what it reads of pairs that are not trained on, where that is not what `look` makes of
    them (because it moves its memory before it reads it). The state stays as it is then, whatever is returned."""

    statistics: Statistics = log_sums
    look: StepLook | None = None
    state: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    look_without_training: StepLook | None = None

    def start(self) -> dict[str, Tensor]:
        """The state before the first step."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.state.items()}

    def looked(
        self, values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw, *, training: bool
    ) -> Looked:
        """What the loss reads of these pairs, and its state after them: without `training` the one before."""
        if self.look is None:
            return Looked({}, state)
        if training:
            return self.look(values, state, given, draw)
        return Looked((self.look_without_training or self.look)(values, state, given, draw).found, state)


def seeded_draw(seed: int) -> Draw:
    """Draws that depend on the seed alone."""

    def draw(weights: Tensor, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.zeros(len(weights), dtype=torch.bool)
        if count:
            # keys u^(1/w): the largest are a draw without replacement in proportion to w (Efraimidis, Spirakis 2006)
            keys = torch.rand(len(weights), generator=generator, dtype=torch.float64).log()
            keys = keys / weights.double().cpu().clamp_min(torch.finfo(torch.float64).tiny)
            chosen[keys.topk(min(count, len(weights))).indices] = True
        return chosen.to(weights.device)

    return draw
