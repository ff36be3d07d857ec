"""Further views of a pair, made for the objectives that compare with them: answers to a corrupted image, answers to a
perturbed question, answers of a twin pair.

A view is drawn again each time a pair is visited, from (seed, pair, visit) alone: the order of the data, the process
and the number of loader workers do not matter, and policy and reference see the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmpo.data.corruption import NEAREST, OTHER, Corruption, generator
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import ProcessedImages, join_images, process_images, process_video
from mmpo.models.scoring.pairs import PairBatch, ViewResponses
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.responses import turn_mask
from mmpo.trainers.views.disturb import Disturbed, OfficialTarsPerturber
from mmpo.trainers.views.others import OtherAnswers
from mmpo.trainers.views.perturb import Perturber
from mmpo.types import ViewSpec


class ViewMaker:
    """Adds views to batches. What they need (`corrupt`, `perturb`, `disturb`, the pairs' `twins` by id, the answers of
    `others`, what hides a part of an image, by candidate) must be given."""

    def __init__(
        self,
        store: ImageStore,
        views: Sequence[ViewSpec],
        *,
        corrupt: ImageCorrupter | None = None,
        perturb: Perturber | None = None,
        disturb: OfficialTarsPerturber | None = None,
        twins: Mapping[str, EncodedPair] | None = None,
        others: OtherAnswers | None = None,
        hide: Mapping[int, ImageCorrupter] | None = None,
        seed: int = 0,
    ) -> None:
        self.store, self.views, self.seed = store, tuple(views), seed
        self.corrupt, self.perturb, self.disturb, self.twins = corrupt, perturb, disturb, twins
        self.others, self.hide = others, hide or {}

    def extra_tokens(self, row: EncodedPair) -> int:
        """Tokens that the views add to the pair, what they share with it not counted twice."""
        responses = sum(len(self._theirs(view, row)) for view in self.views if view.preferred_under is None)
        prompts = sum(view.prompt == "disturbed" for view in self.views)
        images = {
            (view.image, view.candidate * (view.image == "partial"))
            for view in self.views
            if view.prompt != "disturbed"
        }
        prompts += len(images - {("own", 0)})
        return responses + prompts * len(row.prompt)

    def add(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        """The batch of these pairs with its views."""
        images, twins = {"own": batch.image_index}, self._twins(rows)
        partial: dict[int, list[list[int]]] = {}
        if any(view.image == "corrupted" for view in self.views):
            assert self.corrupt is not None
            batch, images["corrupted"] = self._with_corrupted(batch, rows, self.corrupt)
        for candidate in sorted({view.candidate for view in self.views if view.image == "partial"}):
            batch, partial[candidate] = self._with_corrupted(batch, rows, self.hide[candidate], "#partial")
        if any(view.image == "twin" for view in self.views):
            shown = [self.store.shown(twin.images) for twin in twins]
            made = [[self.store.prepared(*image) for image in own] for own in shown]
            tokens = [[self.store.placeholder_tokens(*image) for image in own] for own in shown]
            batch, images["twin"] = _with_images(batch, made, tokens)
        sides = {view.side for view in self.views if view.prompt == "disturbed"}
        disturbed = {side: self._disturbed(side, rows) for side in sides}
        views: dict[ViewSpec, ViewResponses] = {}
        for view in self.views:
            index = partial[view.candidate] if view.image == "partial" else images[view.image]
            if view.prompt == "disturbed":
                found = disturbed[view.side]
                views[view] = ViewResponses(
                    [one.prompt for one in found],
                    [[own[k] for k in one.images] for one, own in zip(found, index, strict=True)],
                    [one.response for one in found],
                    [one.kept for one in found],
                )
                continue
            prompts, responses, weights = batch.prompt_ids, batch.chosen_ids, batch.chosen_weights
            mask = batch.chosen_mask
            if view.side == "rejected":
                responses, weights, mask = batch.rejected_ids, batch.rejected_weights, batch.rejected_mask
            if view.side in ("twin", "other"):
                theirs = twins if view.side == "twin" else self._others(rows)
                responses = [row.chosen.long() for row in theirs]
                mask = turn_mask([row.chosen_turns for row in theirs], responses)
            if view.image == "twin":
                prompts = [twin.prompt.long() for twin in twins]
            if view.side in ("twin", "other") or view.image == "twin":
                weights = None
            if view.prompt == "perturbed":
                prompts = self._perturbed(view.candidate, rows)
            elif (view.side, view.image) == ("chosen", "corrupted"):
                weights = _image_weights(rows, weights)
            views[view] = ViewResponses(prompts, index, responses, weights, mask)
        return replace(batch, views=views)

    def _theirs(self, view: ViewSpec, row: EncodedPair) -> Tensor:
        """An answer as long as the one that the view scores."""
        if view.side == "other":
            assert self.others is not None
            return self.others(row).chosen
        return row.rejected if view.side == "rejected" else row.chosen

    def _twins(self, rows: Sequence[EncodedPair]) -> list[EncodedPair]:
        return [] if self.twins is None else [self.twins[row.id] for row in rows]

    def _others(self, rows: Sequence[EncodedPair]) -> list[EncodedPair]:
        assert self.others is not None
        return [self.others(row) for row in rows]

    def _with_corrupted(
        self, batch: PairBatch, rows: Sequence[EncodedPair], corrupt: ImageCorrupter, draw: str = ""
    ) -> tuple[PairBatch, list[list[int]]]:
        made = [
            [corrupt(image.key, rng, image.among_several) for image in self.store.shown(row.images)]
            for row in rows
            for rng in [generator(self.seed, f"{row.id}{draw}", row.visit)]
        ]
        return _with_images(batch, made, [_shown(batch, own) for own in batch.image_index])

    def _perturbed(self, candidate: int, rows: Sequence[EncodedPair]) -> list[Tensor]:
        assert self.perturb is not None
        return [self.perturb(row, generator(self.seed, f"{row.id}#{candidate}", row.visit), candidate) for row in rows]

    def _disturbed(self, side: str, rows: Sequence[EncodedPair]) -> list[Disturbed]:
        """Chosen and rejected have a draw of their own each."""
        assert self.disturb is not None
        return [
            self.disturb(
                row,
                row.chosen if side == "chosen" else row.rejected,
                generator(self.seed, f"{row.id}#{side}", row.visit),
            )
            for row in rows
        ]


def _image_weights(rows: Sequence[EncodedPair], weights: list[Tensor] | None) -> list[Tensor] | None:
    """The chosen answers' weights under the corrupted image: those of the pair where it has none for this alone."""
    if all(row.image_weights is None for row in rows):
        return weights
    given = weights or [torch.ones(len(row.chosen)) for row in rows]
    return [own if row.image_weights is None else row.image_weights for row, own in zip(rows, given, strict=True)]


def _shown(batch: PairBatch, index: Sequence[int]) -> list[int]:
    assert batch.image_tokens is not None  # the collator counts them
    return [batch.image_tokens[k] for k in index]


def _with_images(
    batch: PairBatch, made: Sequence[Sequence[ProcessedImages]], tokens: Sequence[Sequence[int]]
) -> tuple[PairBatch, list[list[int]]]:
    """The batch with each pair's further images, which take `tokens` placeholders, and their places in it."""
    assert batch.image_tokens is not None
    index: list[list[int]] = []
    known = len(batch.image_tokens)
    for own in made:
        index.append([known + k for k in range(len(own))])
        known += len(own)
    inputs = join_images([batch.image_inputs, *(image.tensors for own in made for image in own)])
    counts = batch.image_tokens + [count for own in tokens for count in own]
    return replace(batch, image_inputs=inputs, image_tokens=counts), index


@dataclass
class ImageCorrupter:
    """Corrupted images, prepared for the tower and as large as the originals, so that prompts keep their length.
    `others` are the images that `other` draws from, `similar` says for each image which `nearest` takes.

    A clip stays a clip with its times: all its frames are cropped, turned or masked alike, or those of another clip
    take their place.
    """

    vlm: VLM
    store: ImageStore
    corruption: Corruption
    others: Sequence[str]
    similar: Mapping[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "vlm": self.vlm.without_weights()}  # see `ImageStore`

    def __post_init__(self) -> None:
        self._others = {
            kind: [key for key in self.others if self.store.kind(key) == kind] for kind in ("image", "video")
        }
        if self.corruption.kind == OTHER and (
            not self.others or any(len(set(own)) == 1 for own in self._others.values())
        ):
            raise UserError("the corruption `other` needs at least two different images, or two different videos")

    def __call__(self, key: str, rng: np.random.Generator, among_several: bool = False) -> ProcessedImages:
        pictures = [self.store.picture(still) for still in self.store.stills(key)]
        if self.corruption.kind in (OTHER, NEAREST):
            pictures = self._of_another(key, pictures, rng)
        if self.store.is_clip(key):
            drawn = rng.integers(2**63)
            alike = [self.corruption.picture(frame, np.random.default_rng(drawn)) for frame in pictures]
            made = process_video(self.vlm, alike, self.store.clip(key).times)
        else:
            made = process_images(self.vlm, [self.corruption.picture(pictures[0], rng)], several=among_several)
        tensors = {
            name: self._corrupted(value, rng)
            if name.startswith("pixel_values") and value.is_floating_point()
            else value
            for name, value in made.tensors.items()
        }
        return replace(made, tensors=tensors)

    def _of_another(self, key: str, pictures: Sequence[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
        """As many pictures of another image or clip, as large as these; a clip's evenly over its frames."""
        others = self._others[self.store.kind(key)]
        found = self.similar[key] if self.corruption.kind == NEAREST else key
        while found == key:
            found = others[int(rng.integers(len(others)))]
        stills = self.store.stills(found)
        places = np.linspace(0, len(stills) - 1, len(pictures)).round().astype(int)
        return [self.store.picture(stills[place]).resize(own.size) for place, own in zip(places, pictures, strict=True)]

    def _corrupted(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(self.corruption.tensor(pixels.numpy(), rng))
