"""Divergence of the policy from what the adapter was: an average of its past weights, or those of some epochs ago."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.families.vision import encode_images
from mmpo.models.scoring.divergence import token_kl
from mmpo.models.scoring.hidden import places
from mmpo.models.scoring.logprob import plain_head
from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import SegmentLogps, segment_logps
from mmpo.models.scoring.sides import Spread
from mmpo.models.tree.layout import TreeBatch
from mmpo.trainers.regularizers.settings import MesaSettings, SafSettings
from mmpo.trainers.regularizers.vectors import Vector, weights_at
from mmpo.types import PairLogps

SNAPSHOTS = 4
"""Past adapters that `saf` holds, beside the one in use; as many as it makes while its number of epochs goes by."""


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
    """lam T^2 KL(past || policy) of each pair, with its gradient: the scorer is asked for its states, and the past
    adapter computes its own on the same layout, without gradient and dropout."""

    def __init__(self, past: Past, scorer: PairScorer, parameters: list[nn.Parameter]) -> None:
        self.past, self.scorer, self.parameters = past, scorer, parameters
        self.armed = False
        self._seen: tuple[TreeBatch, SegmentLogps, Tensor] | None = None
        self._score = scorer._both
        scorer._both = self._both  # type: ignore[method-assign]

    def _both(
        self, layout: TreeBatch, tensors: Any, features: Any, *, states: bool
    ) -> tuple[SegmentLogps, SegmentLogps | None]:
        if not self.armed or self.past.weights is None or self._seen is not None:
            return self._score(layout, tensors, features, states=states)
        policy, reference = self._score(layout, tensors, features, states=True)
        with torch.no_grad(), weights_at(self.parameters, self.past.weights):
            own = features if features is not None else encode_images(self.scorer._vlm, tensors, frozen=True)
            model: nn.Module = self.scorer.model
            model.eval()
            before = segment_logps(self.scorer._vlm, layout, own, chunk=self.scorer.chunk, states=True)
            model.train()
        assert before.states is not None
        self._seen = (layout, policy, before.states)
        return policy, reference

    def per_pair(self, batch: PairBatch, logps: PairLogps) -> Tensor | None:
        """The term [b] of the batch that was just scored: the mean over a response's tokens, and over both responses.
        None while there is no past to compare with."""
        seen, self._seen = self._seen, None
        if seen is None:
            return None
        layout, policy, past = seen
        assert policy.states is not None
        vlm, temperature = self.scorer._vlm, self.past.settings.temperature
        shared = batch.shared(vlm.visual_token_ids, whole_prompts=vlm.family.blocks == "prompt")
        leaf = shared.leaf[: 2 * len(batch)]
        own = places(sorted(set(leaf)), layout.lengths).to(policy.logps.device)
        found = softened_kl(
            policy.states.index_select(0, own),
            past.index_select(0, own),
            plain_head(vlm.head),
            temperature,
            chunk=self.scorer.chunk,
            softcap=vlm.softcap,
        )
        spread = Spread(leaf, layout.lengths)
        flat = found.new_zeros(len(policy.logps)).index_copy(0, own, found)
        sides = []
        for paths in (slice(0, None, 2), slice(1, None, 2)):
            side = spread(flat, paths)
            assert side is not None
            sides.append(side.sum(1) / spread.mask(paths, side.device).sum(1).clamp_min(1))
        return self.past.settings.lam * temperature**2 * (sides[0] + sides[1]) / 2


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
