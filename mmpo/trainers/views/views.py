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
from mmpo.trainers.views.disturb import Disturbed, OfficialTarsPerturber
from mmpo.trainers.views.perturb import Perturber

CORRUPTED, PERTURBED, DISTURBED, PREFERRED = "_corrupted", "_perturbed", "_disturbed", "_preferred"
TWIN = ("twin", "twin_here", "chosen_there")


class ViewMaker:
    """Adds the views `names` to batches. Names read `chosen_corrupted`, `rejected_perturbed`, `chosen_perturbed_2`,
    `chosen_disturbed_corrupted`, `chosen_preferred`, `twin`, …; what they need (`corrupt`, `perturb`, `disturb`, the
    pairs' `twins` by id) must be given."""

    def __init__(
        self,
        store: ImageStore,
        names: Sequence[str],
        *,
        corrupt: ImageCorrupter | None = None,
        perturb: Perturber | None = None,
        disturb: OfficialTarsPerturber | None = None,
        twins: Mapping[str, EncodedPair] | None = None,
        seed: int = 0,
    ) -> None:
        self.store, self.names, self.seed = store, tuple(names), seed
        self.corrupt, self.perturb, self.disturb, self.twins = corrupt, perturb, disturb, twins

    def extra_tokens(self, row: EncodedPair) -> int:
        """Tokens that the views add to the pair, what they share with it not counted twice."""
        responses = sum(
            len(row.rejected if name.startswith("rejected") else row.chosen)
            for name in self.names
            if PREFERRED not in name
        )
        prompts = sum(DISTURBED in name for name in self.names)
        for mark in (CORRUPTED, "twin"):  # a prompt about another image
            prompts += any(mark in name and DISTURBED not in name for name in self.names)
        return responses + prompts * len(row.prompt)

    def add(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        """The batch of these pairs with its views."""
        corrupted: list[list[int]] = []
        if any(CORRUPTED in name for name in self.names):
            assert self.corrupt is not None
            made = [
                [self.corrupt(image.key, rng, image.among_several) for image in self.store.shown(row.images)]
                for row in rows
                for rng in [generator(self.seed, row.id, row.visit)]
            ]
            batch, corrupted = _with_images(batch, made, [_shown(batch, own) for own in batch.image_index])
        views: dict[str, ViewResponses] = {}
        if any(name in TWIN for name in self.names):
            batch, views = self._twin_views(batch, rows)
        disturbed = self._disturbed(rows) if self.disturb is not None else {}
        for name in self.names:
            if name in views:
                continue
            side = name.partition("_")[0]
            responses, weights = (
                (batch.chosen_ids, batch.chosen_weights)
                if side == "chosen"
                else (batch.rejected_ids, batch.rejected_weights)
            )
            index = corrupted if CORRUPTED in name else batch.image_index
            if DISTURBED in name:
                found = disturbed[side]
                views[name] = ViewResponses(
                    [one.prompt for one in found],
                    [[own[k] for k in one.images] for one, own in zip(found, index, strict=True)],
                    [one.response for one in found],
                    [one.kept for one in found],
                )
            elif PERTURBED in name:
                views[name] = ViewResponses(self._perturbed(name, rows), index, responses, weights)
            else:
                under = side + CORRUPTED if PREFERRED in name else None
                own = _image_weights(rows, weights) if name == f"chosen{CORRUPTED}" else weights
                views[name] = ViewResponses(batch.prompt_ids, index, responses, own, under)
        return replace(batch, views={name: views[name] for name in self.names})

    def _perturbed(self, name: str, rows: Sequence[EncodedPair]) -> list[Tensor]:
        assert self.perturb is not None
        candidate = int(name.rpartition("_")[2]) if name[-1].isdigit() else 0
        return [self.perturb(row, generator(self.seed, f"{row.id}#{candidate}", row.visit), candidate) for row in rows]

    def _disturbed(self, rows: Sequence[EncodedPair]) -> dict[str, list[Disturbed]]:
        """Chosen and rejected, each with a draw of its own."""
        assert self.disturb is not None

        def draw(row: EncodedPair, side: str) -> Disturbed:
            rng = generator(self.seed, f"{row.id}#{side}", row.visit)
            assert self.disturb is not None
            return self.disturb(row, row.chosen if side == "chosen" else row.rejected, rng)

        return {side: [draw(row, side) for row in rows] for side in ("chosen", "rejected")}

    def _twin_views(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> tuple[PairBatch, dict[str, ViewResponses]]:
        assert self.twins is not None
        twins = [self.twins[row.id] for row in rows]
        shown = [self.store.shown(twin.images) for twin in twins]
        made = [[self.store.prepared(*image) for image in images] for images in shown]
        batch, index = _with_images(
            batch, made, [[self.store.placeholder_tokens(*image) for image in images] for images in shown]
        )
        prompts, answers = [twin.prompt.long() for twin in twins], [twin.chosen.long() for twin in twins]
        return batch, {
            "twin": ViewResponses(prompts, index, answers),
            "twin_here": ViewResponses(batch.prompt_ids, batch.image_index, answers),
            "chosen_there": ViewResponses(prompts, index, batch.chosen_ids),
        }


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
