"""From preference pairs to token ids, once; from token ids to batches, each step.

    PreferencePair ── encode_pairs ──▶ EncodedPair ── PairCollator ──▶ PairBatch

Example: two pairs about one photograph become a batch with one image:

    ids             ["kitchen-1", "kitchen-2"]
    prompt_ids      [[1, 32000, 32000, …, 319], [1, 32000, 32000, …, 588]]
    chosen_ids      [[3869, 29892, 2], [1939, 2]]
    rejected_ids    [[1939, 2], [3869, 2]]
    image_inputs    {"pixel_values": [1, 3, 336, 336]}
    image_index     [[0], [0]]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmpo.data.pair import PreferencePair, join_text
from mmpo.data.reader import PairDataset
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import begun_tokens, prompt_words
from mmpo.models.scoring.pairs import PairBatch, score_tensors
from mmpo.trainers.changes import changed_weights
from mmpo.trainers.encoded import EncodedPair, EncodedPairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import RowMedia, pixel_tensors, placeholders, prompt_ids
from mmpo.trainers.responses import WantedParts, encode_side, padded_fields, turn_mask
from mmpo.trainers.settings import TokenWeightSettings

__all__ = ["STAGE", "EncodedPair", "EncodedPairs", "OnReject", "PairCollator", "encode_pairs", "score_tensors"]

STAGE = "train"
"""The `stage` of pairs that training leaves out."""

OnReject = Callable[[str, Quarantined], None]


def encode_pairs(
    vlm: VLM,
    pairs: Iterable[PreferencePair],
    store: ImageStore,
    *,
    root: Path | None = None,
    max_response_tokens: int | None = None,
    max_tokens: int | None = None,
    max_pixels_per_pair: int | None = None,
    token_weights: TokenWeightSettings | None = None,
    parts: WantedParts | None = None,
    words: bool = False,
    dataset: PairDataset | None = None,
    on_reject: OnReject | None = None,
) -> EncodedPairs:
    """Tokenize every pair and check every image. Where `pairs` are the rows of `dataset`, embedded images stay there.
    `token_weights` weigh what differs between the two responses; `words` also finds the words of the questions,
    `parts` the steps and segments of the responses.

    A response longer than `max_response_tokens`, or than what the prompt leaves of `max_tokens`, loses its tail, end
    token included; prompts and images are never cut. Images that together have more than `max_pixels_per_pair` on one
    side of a pair are scaled down alike. Left out, counted by reason and passed to `on_reject`: pairs whose responses
    are equal or empty as token ids, pairs longer than the model's positions or whose prompt alone fills `max_tokens`,
    pairs with an image that can't be decoded.
    """
    limits = _Limits(max_response_tokens, max_tokens, max_pixels_per_pair)
    encoder = _Encoder(vlm, store, root, limits, token_weights, parts or WantedParts(), words, dataset)
    result = EncodedPairs([])

    def reject(pair_id: str, error: Quarantined) -> None:
        result.dropped[error.reason] += 1
        if on_reject is not None:
            on_reject(pair_id, error)

    rows: list[EncodedPair] = []
    for number, pair in enumerate(pairs):
        try:
            rows.append(encoder(pair, number))
        except Quarantined as error:
            reject(pair.id, error)
    broken = store.broken({key for row in rows for key in row.all_images})
    for row in rows:
        if failed := next((broken[key] for key in row.all_images if key in broken), None):
            reject(row.id, failed)
        else:
            result.rows.append(row)
    result.truncated = encoder.truncated
    return result


@dataclass(frozen=True)
class _Limits:
    """The largest lengths of a response, of a prompt with its response, and of all images of a side (pixels)."""

    response: int | None
    path: int | None
    pixels: int | None


class _Encoder:
    """Tokenizes pairs and remembers prompts: data sets ask few questions about many images."""

    def __init__(
        self,
        vlm: VLM,
        store: ImageStore,
        root: Path | None,
        limits: _Limits,
        token_weights: TokenWeightSettings | None,
        parts: WantedParts,
        words: bool,
        dataset: PairDataset | None,
    ) -> None:
        self.words, self.dataset = words, dataset
        self.vlm, self.store, self.root, self.limits = vlm, store, root, limits
        self.token_weights, self.parts = token_weights, parts
        self.positions = getattr(vlm.config.get_text_config(), "max_position_embeddings", None)
        self.prompts: dict[str, Tensor] = {}
        self.truncated = 0

    def __call__(self, pair: PreferencePair, number: int) -> EncodedPair:
        if not pair.chosen_text or not pair.rejected_text:
            raise Quarantined(STAGE, "empty_response", "a response has no text")
        media = RowMedia(self.vlm, self.store, pair.videos, root=self.root, dataset=self.dataset, row=number)

        def stored(column: str, sources: Sequence[bytes | str]) -> tuple[str, ...]:
            return self.store.fitted(media.keys(shown, sources, column), self.limits.pixels)

        shown = pair.prompt
        pair = replace(pair, prompt=media.prompt(pair.prompt))
        images = stored("images", pair.images)
        context = join_text(pair.prompt[-1:]) if pair.prompt[-1]["role"] == "assistant" else ""
        if context:  # an answer that both responses continue
            pair = replace(pair, prompt=pair.prompt[:-1])
        prompt = self._prompt(pair, images)
        rejected_images, rejected_prompt = None, None
        if pair.rejected_images is not None and pair.rejected_images != pair.images:
            rejected_images = stored("rejected_images", pair.rejected_images)
            rejected_prompt = self._prompt(pair, rejected_images)
        begun_ids = begun_tokens(self.vlm, context, [join_text(side[:1]) for side in (pair.chosen, pair.rejected)])
        if begun_ids:
            said = _ids(begun_ids)
            prompt = torch.cat([prompt, said])
            rejected_prompt = None if rejected_prompt is None else torch.cat([rejected_prompt, said])
        own = prompt if rejected_prompt is None else rejected_prompt
        begun = (context, len(begun_ids))
        ours = encode_side(self.vlm, pair, "chosen", begun, self._room(prompt))
        theirs = encode_side(self.vlm, pair, "rejected", begun, self._room(own))
        self.truncated += ours.cut + theirs.cut
        chosen, rejected = ours.ids, theirs.ids
        chosen_weights, rejected_weights = ours.weights, theirs.weights
        if self.token_weights is not None and chosen_weights is None and rejected_weights is None:
            chosen_weights, rejected_weights = self._changed(chosen, rejected, self.token_weights)
        if rejected_images is None and torch.equal(chosen, rejected):
            cut = len(chosen) == self._room(prompt)
            raise Quarantined(STAGE, "equal_responses", f"equal after {len(chosen)} tokens" if cut else "same tokens")
        if self.positions and (longest := max(len(prompt) + len(chosen), len(own) + len(rejected))) > self.positions:
            raise Quarantined(STAGE, "too_long", f"{longest} tokens; the model has {self.positions} positions")
        return EncodedPair(
            pair.id,
            prompt,
            chosen,
            rejected,
            chosen_weights,
            rejected_weights,
            images,
            rejected_prompt,
            rejected_images,
            ours.image_weights,
            words=self._words(pair, images) if self.words else None,
            twin=pair.twin,
            scores=pair.scores,
            chosen_turns=ours.turns,
            rejected_turns=theirs.turns,
            chosen_parts=self.parts.of(pair, ours, chosen_weights, "chosen"),
            rejected_parts=self.parts.of(pair, theirs, rejected_weights, "rejected"),
        )

    def _words(self, pair: PreferencePair, images: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        found = prompt_words(self.vlm, pair.prompt, placeholders(self.vlm, self.store, images))
        return tuple((word, tuple(places)) for word, places in found)

    def _changed(self, chosen: Tensor, rejected: Tensor, settings: TokenWeightSettings) -> tuple[Tensor, Tensor]:
        sides = changed_weights(
            chosen.tolist(), rejected.tolist(), gamma=settings.changed, end=self.vlm.eos_id,
            min_match=settings.min_match, insertions=settings.insertions,
        )  # fmt: skip
        return torch.tensor(sides[0]), torch.tensor(sides[1])

    def _prompt(self, pair: PreferencePair, images: tuple[str, ...]) -> Tensor:
        # Where the number of image tokens depends on the image, prompts with the same words still differ.
        fixed = self.vlm.family.fixed_image_size and not any(map(self.store.is_clip, images))
        sizes = len(images) if fixed else images
        key = json.dumps([pair.prompt, sizes], sort_keys=True)
        if key not in self.prompts:
            try:
                self.prompts[key] = _ids(prompt_ids(self.vlm, self.store, pair.prompt, images))
            except UserError as error:
                raise UserError(f"pair {pair.id}: {error.message}", hint=error.hint) from error
        return self.prompts[key]

    def _room(self, prompt: Tensor) -> int | None:
        """The number of tokens that a response to this prompt may have, None without a limit."""
        if self.limits.path is None:
            return self.limits.response
        longest = min(self.limits.path, self.positions or self.limits.path)
        if (room := longest - len(prompt)) < 1:
            raise Quarantined(STAGE, "too_long", f"the prompt alone has {len(prompt)} of {longest} tokens")
        return room if self.limits.response is None else min(room, self.limits.response)


def _ids(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)


class PairCollator:
    """Encoded pairs to one `PairBatch`: an image that several pairs show is in the batch once (twice, where the family
    prepares it differently with others and some show it alone). `add_views` adds what an objective compares with."""

    def __init__(
        self, store: ImageStore, add_views: Callable[[PairBatch, Sequence[EncodedPair]], PairBatch] | None = None
    ) -> None:
        self.store, self.add_views = store, add_views

    def __call__(self, rows: Sequence[EncodedPair]) -> dict[str, PairBatch]:
        """The batch under the name of the scorer's argument, as `Trainer` passes inputs on by name."""
        shown = (self.store.shown(keys) for row in rows for keys in (row.images, row.rejected_images or ()))
        position = {image: i for i, image in enumerate(dict.fromkeys(image for images in shown for image in images))}
        weighted = any(row.chosen_weights is not None or row.rejected_weights is not None for row in rows)
        split = any(row.rejected_prompt is not None for row in rows)

        def places(keys: tuple[str, ...]) -> list[int]:
            return [position[image] for image in self.store.shown(keys)]

        batch = PairBatch(
            ids=[row.id for row in rows],
            prompt_ids=[row.prompt.long() for row in rows],
            chosen_ids=[row.chosen.long() for row in rows],
            rejected_ids=[row.rejected.long() for row in rows],
            image_inputs=pixel_tensors(self.store, list(position)),
            image_index=[places(row.images) for row in rows],
            rejected_prompt_ids=[_long(row.rejected_prompt) for row in rows] if split else None,
            rejected_image_index=[places(r.rejected_images) if r.rejected_images is not None else None for r in rows]
            if split
            else None,
            chosen_weights=[_weights(row.chosen_weights, row.chosen) for row in rows] if weighted else None,
            rejected_weights=[_weights(row.rejected_weights, row.rejected) for row in rows] if weighted else None,
            reference=[row.reference for row in rows if row.reference is not None] or None,
            second_reference=[row.second_reference for row in rows if row.second_reference is not None] or None,
            image_tokens=[self.store.placeholder_tokens(*image) for image in position],
            chosen_mask=turn_mask([row.chosen_turns for row in rows], [row.chosen for row in rows]),
            rejected_mask=turn_mask([row.rejected_turns for row in rows], [row.rejected for row in rows]),
            chosen_more=padded_fields(
                [row.chosen_turns for row in rows],
                [row.chosen_parts for row in rows],
                [len(row.chosen) for row in rows],
            ),
            rejected_more=padded_fields(
                [row.rejected_turns for row in rows],
                [row.rejected_parts for row in rows],
                [len(row.rejected) for row in rows],
            ),
            scores=score_tensors([row.scores for row in rows]),
        )
        return {"batch": batch if self.add_views is None else self.add_views(batch, rows)}


def _long(ids: Tensor | None) -> Tensor | None:
    return None if ids is None else ids.long()


def _weights(weights: Tensor | None, ids: Tensor) -> Tensor:
    return torch.ones(len(ids)) if weights is None else weights
