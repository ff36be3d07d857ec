"""Types shared by models and objectives: log-probs of preference pairs, and the further views of a pair and hidden
states that an objective asks for.

Shapes: b pairs, t tokens of a response (padded), s of a sequence, h hidden. Imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mmpo.errors import UserError


@dataclass(frozen=True)
class Hidden:
    """The hidden states that scoring returns: those after `layer` decoder layers (0: the embeddings; -1: after the last
    one and the final norm), at the `response`'s own tokens or over the whole `sequence`."""

    layer: int = -1
    span: Literal["response", "sequence"] = "response"


@dataclass(frozen=True)
class ViewSpec:
    """A further view of a pair that an objective compares with: whose answer is scored (`side`; `twin`: that of the
    pair's twin), behind which question (`disturbed`: question and answer together) and about which image. The question
    about the twin's image is the twin's. `name` is for people.

    `candidate` tells several perturbations of one question apart. With `preferred_under`, the tokens are not the
    answer's own, but in their places those that the policy would rather write under that other view."""

    name: str
    side: Literal["chosen", "rejected", "twin"]
    prompt: Literal["own", "perturbed", "disturbed"] = "own"
    image: Literal["own", "corrupted", "twin"] = "own"
    candidate: int = 0
    preferred_under: ViewSpec | None = None


@dataclass
class ResponseLogps:
    """Log-probs of one side's responses, right-padded with zeros: `policy` [b, t] float32, `reference` [b, t] or
    None, `mask` [b, t] bool, `weights` [b, t] or None, `top1` [b, t] bool (the policy's first choice). Where an
    objective asks for them: `policy_hidden`, `reference_hidden` [b, t, h], a layer's states at the response's own
    tokens, or [b, s, h] over the whole sequence with `hidden_mask` [b, s]; `kl` [b, t], the divergence KL(reference ||
    policy) of the two models' distributions of each token."""

    policy: Tensor
    reference: Tensor | None
    mask: Tensor
    weights: Tensor | None = None
    top1: Tensor | None = None
    policy_hidden: Tensor | None = None
    reference_hidden: Tensor | None = None
    hidden_mask: Tensor | None = None
    kl: Tensor | None = None

    @property
    def policy_sum(self) -> Tensor:
        """[b], every scored token counted once."""
        return self.policy.sum(dim=-1)

    @property
    def reference_sum(self) -> Tensor:
        """[b]. Raises `UserError` without reference log-probs."""
        if self.reference is None:
            raise UserError("this objective needs reference log-probs, and scoring ran without a reference")
        return self.reference.sum(dim=-1)

    @property
    def kl_sum(self) -> Tensor:
        """[b], the sequential divergence. Raises `UserError` where scoring ran without it."""
        if self.kl is None:
            raise UserError("this objective needs the divergence of each token, and scoring ran without it")
        return self.kl.sum(dim=-1)

    @property
    def lengths(self) -> Tensor:
        """[b] number of scored tokens."""
        return self.mask.sum(dim=-1)


@dataclass(frozen=True)
class StepStatistics:
    """Numbers of every pair of an optimizer step, over all processes: `values[name]` [n], without gradient, from a pass
    before the step's first. `own` are the places of the pairs of the batch at hand. The order of the pairs is that of
    the step, however it is cut."""

    values: Mapping[str, Tensor]
    own: slice = field(default_factory=lambda: slice(None))

    def to(self, device: torch.device | str) -> StepStatistics:
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


@dataclass
class PairLogps:
    """The input of an objective: never a model, only log-probs. `views` holds those of `PairBatch.views`, `auxiliary` a
    row for each sample of `PairBatch.auxiliary`, without reference log-probs. `step` are the statistics of the whole
    optimizer step that an objective asks for; without them a batch is a step of its own. `past_reward` is the mean of
    all log-ratios, chosen and rejected, that were trained on so far, those of this step included; 0 before the first.
    """

    chosen: ResponseLogps
    rejected: ResponseLogps
    views: dict[ViewSpec, ResponseLogps] = field(default_factory=dict)
    auxiliary: ResponseLogps | None = None
    step: StepStatistics | None = None
    past_reward: float = 0.0

    def view(self, spec: ViewSpec) -> ResponseLogps:
        """Raises `UserError` where the batch was made without that view."""
        if spec not in self.views:
            raise UserError(f"this objective compares with {spec.name!r}, and the batch was scored without it")
        return self.views[spec]

    def __len__(self) -> int:
        return len(self.chosen.mask)
