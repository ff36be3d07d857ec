"""TARS' perturbation as its released code does it: random tokens of the whole sequence, template, question and response
alike, drawn with a chance that falls with their similarity to the image.

Commit b2e6288 of KejiaZhang-Robust/TARS. Errors of that code are corrected by default, and each correction can be
switched off (`mmpo.trainers.settings.DisturbanceSettings`). The number of tokens is a share of each sequence; the code
counts over the micro-batch with its padding, which at its batch size of one is the same but for the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.view_settings import DisturbanceSettings
from mmpo.trainers.views.perturb import neutral_id, ordinary_ids
from mmpo.trainers.views.relevance import RelevanceTable

FIRST_RANDOM_ID = 5
"""Random tokens are drawn from this id on."""


@dataclass(frozen=True)
class Disturbed:
    """A sequence after the draw. `kept` [response] is 0 at replaced tokens, which leave the loss; `images` are the
    places of the prompt's images that are still shown."""

    prompt: Tensor
    response: Tensor
    kept: Tensor
    images: list[int]


class OfficialTarsPerturber:
    """Draws and replaces tokens of a prompt with its response."""

    def __init__(self, vlm: VLM, table: RelevanceTable, store: ImageStore, settings: DisturbanceSettings) -> None:
        self._table, self._settings, self._store = table, settings, store
        self._tokenizer = vlm.tokenizer
        self._visual = set(vlm.visual_token_ids)
        self._special = set(vlm.tokenizer.all_special_ids)
        self._vocabulary = np.array([i for i in ordinary_ids(vlm) if i >= FIRST_RANDOM_ID])
        self._mask = neutral_id(vlm) if settings.keep_attention else _released_mask_id(vlm)
        pad = vlm.tokenizer.pad_token_id
        self._deletes = settings.mode == "mask" and not settings.keep_attention and self._mask == pad
        self._texts: dict[int, str] = {}

    def texts(self, rows: Iterable[EncodedPair]) -> set[str]:
        """The tokens of all sequences as texts, for the table of relevance."""
        ids = {int(i) for row in rows for part in (row.prompt, row.chosen, row.rejected) for i in part.unique()}
        return {text for i in ids if (text := self._text(i))}

    def __call__(self, row: EncodedPair, response: Tensor, rng: np.random.Generator) -> Disturbed:
        """The pair's prompt with one of its responses, disturbed."""
        sizes = [self._store.placeholder_tokens(*image) for image in self._store.shown(row.images)]
        places = self._places(row.prompt.tolist(), sizes)
        prompt_units = len(places)
        rows = sum(int(row.prompt[start]) in self._visual for start, _ in places)
        places += [(len(row.prompt) + k, len(row.prompt) + k + 1) for k in range(len(response))]
        ids = torch.cat([row.prompt.long(), response.long()]).tolist()
        drawn = self._draw([ids[start] for start, _ in places], row.images, rng, whole=rows == len(row.images))
        sides: tuple[list[int], list[int]] = ([], [])
        kept: list[float] = []
        shown: list[int] = []
        picture = 0
        for number, (start, end) in enumerate(places):
            image, hit = ids[start] in self._visual, number in drawn
            own = ids[start:end] if not hit else [] if self._deletes and not image else [self._instead(rng)]
            if image and not hit:
                shown.append(picture)
            picture += image
            sides[number >= prompt_units].extend(own)
            if number >= prompt_units:
                kept += [float(not hit)] * len(own)
        images = list(range(len(row.images))) if rows != len(row.images) else shown
        return Disturbed(torch.tensor(sides[0]), torch.tensor(sides[1]), torch.tensor(kept), images)

    def _places(self, prompt: list[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Stretches of the prompt that count as one token each: text tokens, and images as a whole (or, in families
        that put other tokens between an image's rows, each of its rows)."""
        owners = [image for image, size in enumerate(sizes) for _ in range(size)]
        places: list[tuple[int, int]] = []
        before, seen = -1, 0
        for k, token in enumerate(prompt):
            owner = -1
            if token in self._visual:
                owner, seen = owners[seen], seen + 1
            if owner >= 0 and owner == before:
                places[-1] = (places[-1][0], k + 1)
            else:
                places.append((k, k + 1))
            before = owner
        return places

    def _draw(self, ids: Sequence[int], images: Sequence[str], rng: np.random.Generator, *, whole: bool) -> set[int]:
        """Numbers of the tokens to replace: max(1, floor(rate n)) draws without replacement, then without the special
        ones among them. An image can be drawn only as a `whole`."""
        settings = self._settings
        keep_image = settings.keep_image or not whole
        image = np.array([i in self._visual for i in ids])
        special = np.array([i in self._special and i not in self._visual for i in ids])
        scores = 1 - self._similarities(ids, images)
        if keep_image:
            scores[image] = 0.0
        if not scores.any():
            if not settings.uniform:
                raise UserError(
                    "no token differs from the image in similarity, and the draw has nothing to go by",
                    hint="the released code fails here; set disturbance.uniform: true",
                )
            scores = (~special & ~(image & keep_image)).astype(float)
        count = min(max(1, math.floor(len(ids) * settings.rate)), int(np.count_nonzero(scores)))
        drawn = rng.choice(len(ids), size=count, replace=False, p=scores / scores.sum())
        return {int(k) for k in drawn if not special[k]}

    def _similarities(self, ids: Sequence[int], images: Sequence[str]) -> np.ndarray:
        """s [n]: the softmax of 100 cosines over the sequence's tokens; 1 for images and for tokens without a text."""
        texts = [self._text(i) for i in ids]
        named = [k for k, text in enumerate(texts) if text]
        cosines = np.array(self._table.relevance(images, [texts[k] for k in named]))
        found = np.ones(len(ids))
        if named:
            powers = np.exp(100 * (cosines - cosines.max()))
            shares = powers / powers.sum()
            if self._settings.in_place:
                found[named] = shares
            else:  # the released helper returns its list sorted: a similarity lands wherever it falls
                found[: len(named)] = np.sort(shares)[::-1]
        return found

    def _text(self, token: int) -> str:
        if token not in self._texts:
            plain = token not in self._special and token not in self._visual
            self._texts[token] = self._tokenizer.decode([token]).strip() if plain else ""
        return self._texts[token]

    def _instead(self, rng: np.random.Generator) -> int:
        return self._mask if self._settings.mode == "mask" else int(rng.choice(self._vocabulary))


def _released_mask_id(vlm: VLM) -> int:
    """Mask, unknown, padding, else 0."""
    tokenizer = vlm.tokenizer
    known = (i for i in (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) if i is not None)
    return int(next(known, 0))
