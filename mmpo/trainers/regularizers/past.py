"""Divergence of the policy from what the adapter was: an average of its past weights, or those of some epochs ago."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.scoring.divergence import token_kl
from mmpo.models.scoring.logprob import plain_head
from mmpo.models.scoring.other_weights import OtherWeights
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.statistics import ReadStatistic, TokenStates
from mmpo.trainers.regularizers.settings import MesaSettings, SafSettings
from mmpo.trainers.regularizers.vectors import Vector, weights_at
from mmpo.types import PairLogps

SNAPSHOTS = 4
"""Past adapters that `saf` holds, beside the one in use; as many as it makes while its number of epochs goes by."""

DIVERGENCE = "past_kl"
"""The field of `ResponseLogps.more` with the divergence [b, t] of each token, at the settings' temperature."""


class Average:
    """mesa: an exponential average of the weights, which starts at the first ones."""

    def __init__(self, settings: MesaSettings) -> None:
        self.settings = settings
        self.weights: Vector | None = None

    def begin(self, weights: Vector, step: int) -> None:
        """Count the weights that a step starts from."""
        if self.weights is None:
            self.weights = [part.clone() for part in weights]
            return
        for mean, part in zip(self.weights, weights, strict=True):
            mean.lerp_(part, 1.0 - self.settings.decay)

    def state(self) -> dict[str, Vector]:
        return {"average": self.weights} if self.weights is not None else {}

    def load(self, state: Mapping[str, Vector]) -> None:
        self.weights = list(state["average"])


class Snapshots:
    """saf: the weights of `lag` steps ago, or of up to a quarter of that before."""

    def __init__(self, settings: SafSettings, lag: int, steps: int) -> None:
        """`lag` is the settings' epochs in steps, of a run of so many `steps`."""
        if lag >= steps:
            raise UserError(
                f"regularizers.saf: it starts after {settings.epochs:g} epochs, and the run is not longer than that",
                hint="fewer epochs there, or mesa, which starts at once",
            )
        self.settings, self.lag = settings, max(1, lag)
        self.every = math.ceil(self.lag / SNAPSHOTS)
        self.kept: dict[int, Vector] = {}
        self.weights: Vector | None = None

    def begin(self, weights: Vector, step: int) -> None:
        """Keep the weights that a step starts from, if it is their turn, and choose those to compare with."""
        if step % self.every == 0:
            self.kept[step] = [part.clone() for part in weights]
        self._choose(step)

    def _choose(self, step: int) -> None:
        old = [number for number in self.kept if number <= step - self.lag]
        for number in old[:-1]:
            del self.kept[number]
        self.weights = self.kept[old[-1]] if old else None

    def state(self) -> dict[str, Vector]:
        return {str(step): weights for step, weights in self.kept.items()}

    def load(self, state: Mapping[str, Vector]) -> None:
        self.kept = {int(step): list(state[step]) for step in sorted(state, key=int)}


Past = Average | Snapshots


class PastDivergence:
    """lam T^2 KL(past || policy) of each pair, with its gradient: the scorer runs the past adapter on the layout of the
    policy, without gradient and dropout."""

    def __init__(self, past: Past, scorer: PairScorer, parameters: list[nn.Parameter]) -> None:
        self.past, self.scorer, self.parameters = past, scorer, parameters

    @contextmanager
    def compared(self) -> Iterator[None]:
        """What the scorer scores inside is compared with the past, once there is one."""
        weights = self.past.weights
        if weights is not None:
            parameters = self.parameters
            self.scorer.other_weights = OtherWeights(
                lambda: weights_at(parameters, weights), ReadStatistic(DIVERGENCE, self._statistic)
            )
        try:
            yield
        finally:
            self.scorer.other_weights = None

    def _statistic(self, states: TokenStates) -> dict[str, Tensor]:
        head = plain_head(states.vlm.head)
        found = softened_kl(
            states.policy,
            states.of_reference,
            head,
            self.past.settings.temperature,
            chunk=states.chunk,
            softcap=states.softcap,
        )
        return {DIVERGENCE: found}

    def per_pair(self, logps: PairLogps) -> Tensor | None:
        """The term [b] of a batch: the mean over a response's tokens, and over both responses. None where it was not
        compared."""
        if DIVERGENCE not in logps.chosen.more:
            return None
        sides = [side.read(DIVERGENCE).sum(1) / side.lengths.clamp_min(1) for side in (logps.chosen, logps.rejected)]
        return self.past.settings.lam * self.past.settings.temperature**2 * (sides[0] + sides[1]) / 2


def softened_kl(
    policy: Tensor,
    past: Tensor,
    head: nn.Linear,
    temperature: float,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """KL(past || policy) [n] of the next-token distributions at that temperature, from states [n, h]. Logits over T are
    the head's of states over T, with a bound (`softcap`) over T."""
    soft = head
    if head.bias is not None:
        soft = nn.Linear(1, 1)
        soft.out_features, soft.weight = head.out_features, head.weight
        soft.bias = nn.Parameter(head.bias.detach() / temperature, requires_grad=False)
    return token_kl(
        policy / temperature,
        past / temperature,
        soft,
        chunk=chunk,
        softcap=softcap / temperature if softcap is not None else None,
    )
