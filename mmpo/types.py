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
class ScoringOptions:
    """Numbers that scoring needs for what losses read: `tail`, the mu of the divergence's upper tail, and
    `eos_temperature`, at which the reference's log-prob of the end token is taken."""

    tail: float = 0.95
    eos_temperature: float = 0.1


@dataclass(frozen=True)
class ViewSpec:
    """A further view of a pair that an objective compares with: whose answer is scored (`side`; `twin`: that of the
    pair's twin; `other`: the chosen one of another pair, a view that may have any number of rows), behind which
    question (`disturbed`: question and answer together) and about which image (`partial`: a part of it hidden). The
    question about the twin's image is the twin's. `name` is for people.

    `candidate` tells several perturbations of one question apart, and partial images: more is hidden the higher it is.
    With `preferred_under`, the tokens are not the answer's own, but in their places those that the policy would rather
    write under that other view."""

    name: str
    side: Literal["chosen", "rejected", "twin", "other"]
    prompt: Literal["own", "perturbed", "disturbed"] = "own"
    image: Literal["own", "corrupted", "twin", "partial"] = "own"
    candidate: int = 0
    preferred_under: ViewSpec | None = None


@dataclass
class ResponseLogps:
    """Log-probs of one side's responses, right-padded with zeros: `policy` [b, t] float32, `reference` [b, t] or
    None, `mask` [b, t] bool, `weights` [b, t] or None, `top1` [b, t] bool (the policy's first choice). Where an
    objective asks for them: `policy_hidden`, `reference_hidden` [b, t, h], a layer's states at the response's own
    tokens, or [b, s, h] over the whole sequence with `hidden_mask` [b, s]; `kl` [b, t], the divergence KL(reference ||
    policy) of the two models' distributions of each token; and in `more`, by name, whatever else an objective reads of
    single tokens [b, t] or parts (`mmpo.objectives.reads` says what there is)."""

    policy: Tensor
    reference: Tensor | None
    mask: Tensor
    weights: Tensor | None = None
    top1: Tensor | None = None
    policy_hidden: Tensor | None = None
    reference_hidden: Tensor | None = None
    hidden_mask: Tensor | None = None
    kl: Tensor | None = None
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """A field of `more`. Raises `UserError` where the response was made without it."""
        if name not in self.more:
            raise UserError(f"this objective reads {name!r}, and the responses come without it")
        return self.more[name]

    def weighed(self, weights: Tensor) -> ResponseLogps:
        """The same responses with each token's log-prob, of policy and references, times its weight: [b, t], or [b, 1]
        for all tokens of a response. The mask, and with it lengths, stays."""
        weights = weights.to(self.policy.dtype)
        second = self.more.get("second_reference")
        return replace(
            self,
            policy=self.policy * weights,
            reference=None if self.reference is None else self.reference * weights,
            more=self.more if second is None else {**self.more, "second_reference": second * weights},
        )

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

    @property
    def places(self) -> Tensor:
        """[b, t] long, the place of each scored token among them, from 0. Of responses of several turns not its column:
        the tokens between turns are masked and count nowhere."""
        return self.mask.cumsum(dim=-1) - 1

    def by_place(self, values: Tensor) -> Tensor:
        """Values of tokens, [b, t], moved to the columns of their places; 0 behind the last one, [b, t]."""
        columns = torch.where(self.mask, self.places, values.shape[1])
        room = values.new_zeros(len(values), values.shape[1] + 1)
        return room.scatter(1, columns, values)[:, :-1]


@dataclass(frozen=True)
class StepStatistics:
    """Numbers of every pair of an optimizer step, over all processes: `values[name]` [n], without gradient, from a pass
    before the step's first. `own` are the places of the pairs of the batch at hand. The order of the pairs is that of
    the step, however it is cut. `found[objective][name]` is what a loss's step rule made of them: [n] or []."""

    values: Mapping[str, Tensor]
    own: slice = field(default_factory=lambda: slice(None))
    found: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """True where the batch at hand is the whole step."""
        return self.own == slice(None)

    def to(self, device: torch.device | str) -> StepStatistics:
        def moved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in values.items()}

        return replace(
            self, values=moved(self.values), found={name: moved(values) for name, values in self.found.items()}
        )


@dataclass
class ResponseGroups:
    """Responses in groups: `responses` has a row for each, `group` [r] its group's number (from 0, rising), `scores`
    [r] its score, higher is better, NaN where it has none. `mismatched` are, where a loss reads them, the answers of
    other groups behind these groups' questions and images."""

    responses: ResponseLogps
    group: Tensor
    scores: Tensor
    mismatched: ResponseLogps | None = None

    def __len__(self) -> int:
        """The number of groups."""
        return int(self.group.max()) + 1 if len(self.group) else 0


@dataclass
class PairLogps:
    """The input of an objective: never a model, only log-probs. `views` holds those of `PairBatch.views`, `auxiliary` a
    row for each sample of `PairBatch.auxiliary`, without reference log-probs. `scores` are numbers of each pair by
    name, [b], NaN where a pair has none. `groups` are groups of scored responses, `samples` responses that the
    reference wrote to the prompts, `samples_of` [r] whose pair each belongs to. `step` are the statistics of the whole
    optimizer step that an objective asks for; without them a batch is a step of its own. `state` is what losses
    remember of earlier steps, by objective and name; `progress` the share of the run's steps that are done, 0 to 1.
    """

    chosen: ResponseLogps
    rejected: ResponseLogps
    views: dict[ViewSpec, ResponseLogps] = field(default_factory=dict)
    auxiliary: ResponseLogps | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    groups: ResponseGroups | None = None
    samples: ResponseLogps | None = None
    samples_of: Tensor | None = None
    step: StepStatistics | None = None
    state: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    progress: float = 0.0

    def view(self, spec: ViewSpec) -> ResponseLogps:
        """Raises `UserError` where the batch was made without that view."""
        if spec not in self.views:
            raise UserError(f"this objective compares with {spec.name!r}, and the batch was scored without it")
        return self.views[spec]

    def score(self, name: str) -> Tensor:
        """The score of that name of every pair, [b]. Raises `UserError` where the pairs bring none."""
        if name not in self.scores:
            there = f"they have {', '.join(sorted(self.scores))}" if self.scores else "they have none"
            raise UserError(f"this objective reads the score {name!r} of pairs, and {there}", hint=SCORES_HINT)
        return self.scores[name]

    def __len__(self) -> int:
        return len(self.chosen.mask)


SCORES_HINT = "name the columns of your pairs' scores: scores: {chosen: …, rejected: …}"
