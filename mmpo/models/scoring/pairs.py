"""The input of scoring: preference pairs as token ids. The output is in `mmpo.types`.

Shapes: b pairs, t tokens of a response (padded), h hidden.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.models.crossing import moved, placed
from mmpo.models.tree.layout import Segment, response_tree
from mmpo.models.tree.sharing import ResponsePath, Shared, TokenIds, share
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps, ViewSpec


@dataclass
class ViewResponses:
    """One more response for every pair of a batch: the chosen answer to a corrupted image, an answer to a perturbed
    prompt. `prompt_ids[i]`, `image_index[i]` and `response_ids[i]` belong to pair i. `mask` as in `PairBatch`."""

    prompt_ids: list[Tensor]
    image_index: list[list[int]]
    response_ids: list[Tensor]
    weights: list[Tensor] | None = None
    mask: list[Tensor] | None = None

    def to(self, device: torch.device | str) -> ViewResponses:
        """Move the weights; token ids stay where they are."""
        return self if self.weights is None else replace(self, weights=[moved(w, device) for w in self.weights])

    def paths(self) -> list[ResponsePath]:
        """One path a pair."""
        columns = zip(self.prompt_ids, self.response_ids, self.image_index, strict=True)
        return [ResponsePath(prompt.tolist(), response.tolist(), images) for prompt, response, images in columns]


@dataclass
class AnswerBatch:
    """Answers beside the pairs. Answer k follows `prompt_ids[k]` and belongs to sample `owner[k]`: the turns of one
    conversation are one sample, and samples count from 0. Images as in `PairBatch`, but of their own. Of answers in
    groups, `group[k]` is the number of sample k's group, from 0 and rising, and `scores` are their scores. Behind them
    come, with -1 and without scores, answers of others to the questions of some groups."""

    prompt_ids: list[Tensor]
    response_ids: list[Tensor]
    image_index: list[list[int]]
    owner: list[int]
    image_inputs: dict[str, Tensor]
    image_tokens: list[int]
    group: list[int] = field(default_factory=list)
    scores: Tensor | None = None

    def to(self, device: torch.device | str) -> AnswerBatch:
        """Move pixels and scores; token ids stay where they are."""
        return replace(
            self,
            image_inputs={key: moved(value, device) for key, value in self.image_inputs.items()},
            scores=None if self.scores is None else moved(self.scores, device),
        )

    def groups_of(self, responses: ResponseLogps) -> ResponseGroups:
        """The log-probs of these answers with their groups and scores."""
        assert self.scores is not None
        device = responses.mask.device
        group, scores = placed(self.group, device), moved(self.scores, device)
        if min(self.group, default=0) >= 0:
            return ResponseGroups(responses, group, scores)
        own, others = (
            placed([k for k, number in enumerate(self.group) if (number >= 0) == wanted], device)
            for wanted in (True, False)
        )
        return ResponseGroups(_rows(responses, own), group[own], scores, mismatched=_rows(responses, others))

    def shared(self, image_token_id: TokenIds, *, whole_prompts: bool = False) -> Shared:
        """The answers laid out as trees: the turns of a conversation share what they have in common."""
        columns = zip(self.prompt_ids, self.response_ids, self.image_index, strict=True)
        paths = [ResponsePath(prompt.tolist(), response.tolist(), images) for prompt, response, images in columns]
        least = sys.maxsize if whole_prompts else None
        return share(paths, image_token_id, dict(enumerate(self.image_tokens)), least=least)


@dataclass
class PairBatch:
    """Preference pairs as token ids, and the distinct images they show.

    `image_index[i]` names the images of pair i's prompt in the order of its placeholders (indices into
    `image_inputs`). Where the rejected side sees other images, `rejected_prompt_ids[i]` and `rejected_image_index[i]`
    hold its own prompt; None otherwise. Weights, if given, are one float per response token. `image_tokens[k]` is the
    number of placeholder tokens of distinct image k: with it, pairs that share an image, or an image and a prompt,
    become one tree; without it every pair is a tree of its own. `reference[i]` holds reference log-probs (chosen [c],
    rejected [r]) that were computed before, `second_reference[i]` those of a second reference. `views` are further
    responses that an objective compares with, `auxiliary` answers to other questions that are learnt with the pairs as
    they stand (the policy alone scores them), `groups` groups of scored responses beside the pairs,
    `scores` numbers of each pair by name, [b], NaN where a pair has none. Masks, if given, are one bool per response
    token, False at those that are seen and not scored (what the user says between two turns). `chosen_more` and
    `rejected_more` become the responses' `more`; `samples` are responses to the pairs' own prompts, number k to that of
    pair `samples_of[k]`."""

    ids: list[str]
    prompt_ids: list[Tensor]
    chosen_ids: list[Tensor]
    rejected_ids: list[Tensor]
    image_inputs: dict[str, Tensor]
    image_index: list[list[int]]
    rejected_prompt_ids: list[Tensor | None] | None = None
    rejected_image_index: list[list[int] | None] | None = None
    chosen_weights: list[Tensor] | None = None
    rejected_weights: list[Tensor] | None = None
    image_tokens: list[int] | None = None
    reference: list[tuple[Tensor, Tensor]] | None = None
    views: dict[ViewSpec, ViewResponses] = field(default_factory=dict)
    auxiliary: AnswerBatch | None = None
    groups: AnswerBatch | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    second_reference: list[tuple[Tensor, Tensor]] | None = None
    chosen_mask: list[Tensor] | None = None
    rejected_mask: list[Tensor] | None = None
    chosen_more: Mapping[str, Tensor] = field(default_factory=dict)
    rejected_more: Mapping[str, Tensor] = field(default_factory=dict)
    samples: AnswerBatch | None = None
    samples_of: list[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> PairBatch:
        """Move what model and objective read (pixels, weights, scores). Token ids stay where they are: the layout is
        made from them.
        """
        return replace(
            self,
            auxiliary=None if self.auxiliary is None else self.auxiliary.to(device),
            groups=None if self.groups is None else self.groups.to(device),
            views={spec: view.to(device) for spec, view in self.views.items()},
            image_inputs={key: moved(value, device) for key, value in self.image_inputs.items()},
            chosen_weights=None if self.chosen_weights is None else [moved(w, device) for w in self.chosen_weights],
            rejected_weights=None
            if self.rejected_weights is None
            else [moved(w, device) for w in self.rejected_weights],
            reference=_moved(self.reference, device),
            second_reference=_moved(self.second_reference, device),
            scores={name: moved(values, device) for name, values in self.scores.items()},
            chosen_more={name: moved(values, device) for name, values in self.chosen_more.items()},
            rejected_more={name: moved(values, device) for name, values in self.rejected_more.items()},
            samples=None if self.samples is None else self.samples.to(device),
        )

    def paths(self) -> list[ResponsePath]:
        """The scored paths: chosen, rejected, chosen, … of the pairs, then each view's responses, all with the prompt
        and images they follow."""
        paths: list[ResponsePath] = []
        for i, prompt in enumerate(self.prompt_ids):
            paths.append(ResponsePath(prompt.tolist(), self.chosen_ids[i].tolist(), self.image_index[i]))
            own = self.rejected_prompt_ids[i] if self.rejected_prompt_ids is not None else None
            images = self.rejected_image_index[i] if self.rejected_image_index is not None else None
            paths.append(
                ResponsePath(
                    (own if own is not None else prompt).tolist(),
                    self.rejected_ids[i].tolist(),
                    images if images is not None else self.image_index[i],
                )
            )
        return paths + [path for view in self.views.values() for path in view.paths()]

    def shared(self, image_token_id: TokenIds, *, whole_prompts: bool = False) -> Shared:
        """The paths laid out as trees: over the whole batch where `image_tokens` says where each image ends, else pair
        by pair. `whole_prompts`: a prompt is shared as a whole or not at all."""
        paths = self.paths()
        if self.image_tokens is not None:
            least = sys.maxsize if whole_prompts else None
            return share(paths, image_token_id, dict(enumerate(self.image_tokens)), least=least)
        trees: list[list[Segment]] = []
        sides, others = paths[: 2 * len(self)], paths[2 * len(self) :]
        for chosen, rejected in zip(sides[0::2], sides[1::2], strict=True):
            if chosen.prompt == rejected.prompt and chosen.images == rejected.images:
                trees.append(response_tree(chosen.prompt, [chosen.response, rejected.response], chosen.images))
            else:
                trees += [response_tree(side.prompt, [side.response], side.images) for side in (chosen, rejected)]
        trees += [response_tree(path.prompt, [path.response], path.images) for path in others]
        return Shared(trees, list(range(len(paths))))


def score_tensors(scores: Sequence[Mapping[str, float] | None]) -> dict[str, Tensor]:
    """The scores of pairs by name, [b]; NaN where a pair has none."""
    names = dict.fromkeys(name for own in scores for name in own or {})
    return {name: torch.tensor([(own or {}).get(name, math.nan) for own in scores]) for name in names}


def _moved(kept: list[tuple[Tensor, Tensor]] | None, device: torch.device | str) -> list[tuple[Tensor, Tensor]] | None:
    return None if kept is None else [(moved(chosen, device), moved(rejected, device)) for chosen, rejected in kept]


def _rows(responses: ResponseLogps, which: Tensor) -> ResponseLogps:
    """Some of the responses, all with the padding of the longest."""

    def own(value: Any) -> Any:
        return value[which] if isinstance(value, Tensor) else value

    found = {field.name: own(getattr(responses, field.name)) for field in fields(responses)}
    return ResponseLogps(**{**found, "more": {name: own(value) for name, value in responses.more.items()}})


def blank_logps(batch: PairBatch) -> PairLogps:
    """The record of a batch before any model has seen it: real lengths and weights, every log-probability -1."""

    def side(ids: list[Tensor], weights: list[Tensor] | None) -> ResponseLogps:
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(max(map(len, ids), default=0))[None] < lengths[:, None]  # [b, t]
        blank = -mask.float()
        padded = None if weights is None else pad_sequence(weights, batch_first=True)
        states = blank[..., None]
        return ResponseLogps(blank, blank, mask, padded, policy_hidden=states, reference_hidden=states, kl=blank)

    found = PairLogps(
        side(batch.chosen_ids, batch.chosen_weights),
        side(batch.rejected_ids, batch.rejected_weights),
        {spec: side(view.response_ids, view.weights) for spec, view in batch.views.items()},
        side(_joined(batch.auxiliary), None) if batch.auxiliary is not None else None,
        scores={name: values.cpu() for name, values in batch.scores.items()},
        groups=batch.groups.to("cpu").groups_of(side(_joined(batch.groups), None))
        if batch.groups is not None
        else None,
        samples=side(_joined(batch.samples), None) if batch.samples is not None else None,
    )
    return with_batch_fields(found, batch)


def with_batch_fields(pairs: PairLogps, batch: PairBatch) -> PairLogps:
    """The record with what the batch says of its responses: parts, drawn positions, whose samples they are. Tokens
    that its masks leave out count nothing: log-probs and weights are 0 there."""

    def own(side: ResponseLogps, mask: list[Tensor] | None, more: Mapping[str, Tensor]) -> ResponseLogps:
        fields = {name: value.to(side.mask.device) for name, value in more.items()}
        return _masked(replace(side, more={**side.more, **fields}), mask)

    of = None if batch.samples_of is None else placed(batch.samples_of, pairs.chosen.mask.device)
    return replace(
        pairs,
        chosen=own(pairs.chosen, batch.chosen_mask, batch.chosen_more),
        rejected=own(pairs.rejected, batch.rejected_mask, batch.rejected_more),
        views={spec: own(side, batch.views[spec].mask, {}) for spec, side in pairs.views.items()},
        samples_of=of,
    )


def _masked(side: ResponseLogps, mask: list[Tensor] | None) -> ResponseLogps:
    """The side without the tokens at which `mask` is False. Hidden states stay as they are."""
    if mask is None:
        return side
    scored = moved(pad_sequence(mask, batch_first=True), side.mask.device)  # [b, t]
    if scored.shape != side.mask.shape:
        raise ValueError(f"masks are {tuple(scored.shape)}, responses {tuple(side.mask.shape)}: one value per token")

    def kept(value: Tensor | None) -> Tensor | None:
        if value is None or value.shape != scored.shape or value.dtype == torch.long:
            return value
        return torch.where(scored, value, torch.zeros((), dtype=value.dtype, device=value.device))

    policy = kept(side.policy)
    assert policy is not None
    return replace(
        side,
        policy=policy,
        reference=kept(side.reference),
        mask=side.mask & scored,
        weights=kept(side.weights),
        top1=kept(side.top1),
        kl=kept(side.kl),
        more={name: found for name, value in side.more.items() if (found := kept(value)) is not None},
    )


def _joined(answers: AnswerBatch) -> list[Tensor]:
    """The answers of each sample as one row."""
    owners = range(max(answers.owner, default=-1) + 1)
    return [
        torch.cat([ids for ids, owner in zip(answers.response_ids, answers.owner, strict=True) if owner == sample])
        for sample in owners
    ]
