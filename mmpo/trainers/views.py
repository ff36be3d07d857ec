"""Further views of a pair, made for the objectives that compare with them: answers to a corrupted image, answers to a
perturbed question.

A view is drawn anew each time a pair is visited, from (seed, pair, visit) alone: the order of the data, the process
and the number of loader workers do not matter, and policy and reference see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmpo.data.corruption import OTHER, Corruption, generator
from mmpo.errors import UserError
from mmpo.models.loading import VLM
from mmpo.models.pairs import PairBatch, View
from mmpo.models.processing import ProcessedImages, join_images, process_images
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.relevance import RelevanceTable, visual_agnostic

CORRUPTED, PERTURBED = "_corrupted", "_perturbed"


class ViewMaker:
    """Adds the views `names` to batches. Names read `chosen_corrupted`, `rejected_perturbed`, `chosen_perturbed_2`,
    …; what they need (`corrupt`, `perturb`) must be given."""

    def __init__(
        self,
        store: ImageStore,
        names: Sequence[str],
        *,
        corrupt: ImageCorrupter | None = None,
        perturb: Perturber | None = None,
        seed: int = 0,
    ) -> None:
        self.store, self.names, self.seed = store, tuple(names), seed
        self.corrupt, self.perturb = corrupt, perturb

    def extra_tokens(self, row: EncodedPair) -> int:
        """Tokens that the views add to the pair, what they share with it not counted twice."""
        responses = sum(len(row.chosen if name.startswith("chosen") else row.rejected) for name in self.names)
        new_prompts = any(CORRUPTED in name for name in self.names)
        return responses + (len(row.prompt) if new_prompts else 0)

    def add(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        """The batch of these pairs with its views."""
        prompts, index = batch.prompt_ids, batch.image_index
        corrupted_index: list[list[int]] = []
        if any(CORRUPTED in name for name in self.names):
            batch, corrupted_index = self._with_corrupted_images(batch, rows)
        views: dict[str, View] = {}
        for name in self.names:
            responses = batch.chosen_ids if name.startswith("chosen") else batch.rejected_ids
            if CORRUPTED in name:
                views[name] = View(prompts, corrupted_index, responses)
                continue
            assert self.perturb is not None
            candidate = int(name.rpartition("_")[2]) if name[-1].isdigit() else 0
            changed = [
                self.perturb(row, generator(self.seed, f"{row.id}#{candidate}", row.visit), candidate) for row in rows
            ]
            views[name] = View(changed, index, responses)
        return replace(batch, views=views)

    def _with_corrupted_images(
        self, batch: PairBatch, rows: Sequence[EncodedPair]
    ) -> tuple[PairBatch, list[list[int]]]:
        assert self.corrupt is not None
        assert batch.image_tokens is not None  # the collator counts them
        made: list[ProcessedImages] = []
        index: list[list[int]] = []
        known = len(batch.image_tokens)
        for row in rows:
            rng = generator(self.seed, row.id, row.visit)
            index.append([known + len(made) + k for k in range(len(row.images))])
            made += [self.corrupt(key, rng) for key in row.images]
        inputs = join_images([batch.image_inputs, *(image.tensors for image in made)])
        shown = [batch.image_tokens[k] for own in batch.image_index for k in own]
        return replace(batch, image_inputs=inputs, image_tokens=batch.image_tokens + shown), index


@dataclass
class ImageCorrupter:
    """Corrupted images, prepared for the tower and as large as the originals, so that prompts keep their length.
    `others` are the images that `other` draws from."""

    vlm: VLM
    store: ImageStore
    corruption: Corruption
    others: Sequence[str]

    def __post_init__(self) -> None:
        if self.corruption.kind == OTHER and len(set(self.others)) < 2:
            raise UserError("the corruption `other` needs at least two different images")

    def __call__(self, key: str, rng: np.random.Generator) -> ProcessedImages:
        picture = self.store.picture(key)
        if self.corruption.kind == OTHER:
            size = picture.size
            found = key
            while found == key:
                found = self.others[int(rng.integers(len(self.others)))]
            picture = self.store.picture(found).resize(size)
        made = process_images(self.vlm, [self.corruption.picture(picture, rng)])
        tensors = {
            name: self._corrupted(value, rng)
            if name.startswith("pixel_values") and value.is_floating_point()
            else value
            for name, value in made.tensors.items()
        }
        return replace(made, tensors=tensors)

    def _corrupted(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(self.corruption.tensor(pixels.numpy(), rng))


class Perturber:
    """The question with its visual-agnostic words changed, token for token: TARS (arXiv 2507.21584), section 2.2.

    `mask` puts the tokenizer's mask token (else its unknown token, else an underscore) in their place, `replace`
    random tokens of the vocabulary, `synonyms` a synonym that takes as many tokens (a random one; words without stay).
    `relevant=False` takes as many random words instead, the paper's control. Candidate 0 changes all selected words,
    further ones a random part of them: other points of the set that the paper maximizes over.
    """

    def __init__(
        self,
        vlm: VLM,
        table: RelevanceTable,
        *,
        how: str = "mask",
        omega: float = 1e-3,
        cap: float = 1.0,
        relevant: bool = True,
        synonyms: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self.table, self.how, self.omega, self.cap, self.relevant = table, how, omega, cap, relevant
        self._tokenizer = vlm.tokenizer
        self._mask = _mask_id(vlm)
        special = set(vlm.tokenizer.all_special_ids) | set(vlm.tokenizer.added_tokens_decoder)
        self._vocabulary = np.array([i for i in range(len(vlm.tokenizer)) if i not in special])
        self._synonyms = synonyms
        if how == "synonyms" and synonyms is None:
            raise UserError("perturbation by synonyms needs a list of synonyms", hint="set perturbation.lexicon")

    def __call__(self, row: EncodedPair, rng: np.random.Generator, candidate: int = 0) -> Tensor:
        words = row.words or ()
        chosen = self.select(row, rng)
        if candidate and len(chosen) > 1:
            kept = rng.integers(1, len(chosen))  # a proper part, never empty
            chosen = sorted(rng.choice(chosen, size=kept, replace=False).tolist())
        ids = row.prompt.long().clone()
        for number in chosen:
            word, places = words[number]
            new = self._instead(word, len(places), rng, ids[list(places)])
            ids[list(places)] = new
        return ids

    def select(self, row: EncodedPair, rng: np.random.Generator) -> list[int]:
        """Indices of the words of the pair's question that are changed."""
        words = [word for word, _ in row.words or ()]
        if not words:
            return []
        cosines = self.table.relevance(row.images, words)
        chosen = visual_agnostic(cosines, omega=self.omega, cap=self.cap)
        return chosen if self.relevant else rng.choice(len(words), size=len(chosen), replace=False).tolist()

    def _instead(self, word: str, count: int, rng: np.random.Generator, old: Tensor) -> Tensor:
        if self.how == "mask":
            return torch.full((count,), self._mask)
        if self.how == "replace":
            return torch.from_numpy(rng.choice(self._vocabulary, size=count))
        assert self._synonyms is not None
        fitting = [
            ids
            for synonym in self._synonyms(word)
            if len(ids := self._tokenizer(f" {synonym}", add_special_tokens=False).input_ids) == count
        ]
        return torch.tensor(fitting[int(rng.integers(len(fitting)))]) if fitting else old


def _mask_id(vlm: VLM) -> int:
    """Mask, unknown (unless it is the padding), else an underscore: never padding, which is not attended to."""
    tokenizer = vlm.tokenizer
    for found in (tokenizer.mask_token_id, tokenizer.unk_token_id):
        if found is not None and found != tokenizer.pad_token_id:
            return int(found)
    return int(tokenizer("_", add_special_tokens=False).input_ids[-1])
