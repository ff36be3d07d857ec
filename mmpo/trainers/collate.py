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

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpo.data.pair import PreferencePair, join_text
from mmpo.data.reader import PairDataset
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response, prompt_words, response_offsets, token_weights
from mmpo.models.scoring.pairs import PairBatch, score_tensors
from mmpo.models.tree.sharing import LEAST_SHARED
from mmpo.trainers.changes import changed_weights
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import RowMedia, pixel_tensors, placeholders, prompt_ids
from mmpo.trainers.schedule import PairPart
from mmpo.trainers.settings import TokenWeightSettings

STAGE = "train"
"""The `stage` of pairs that training leaves out."""

OnReject = Callable[[str, Quarantined], None]


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as token ids (int32, to save memory) with the keys of its images in the order in which the prompt shows
    them.

    `rejected_prompt` and `rejected_images` are given where the rejected side sees other images; `reference` holds the
    reference log-probs of chosen and rejected where they were computed before. `image_weights` weigh the chosen answer
    where it is compared with itself under another image. `words` are the question's words with
    the places of their tokens in `prompt`, where something asks for them; `twin` is the id of the pair that shows a
    similar image; `scores` are numbers of the pair, by name. `visit` counts how often training saw the pair before,
    `view_tokens` what its further views add to a batch.
    """

    id: str
    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_weights: Tensor | None
    rejected_weights: Tensor | None
    images: tuple[str, ...]
    rejected_prompt: Tensor | None = None
    rejected_images: tuple[str, ...] | None = None
    image_weights: Tensor | None = None
    reference: tuple[Tensor, Tensor] | None = None
    words: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    twin: str | None = None
    scores: Mapping[str, float] | None = None
    visit: int = 0
    view_tokens: int = 0

    @property
    def length(self) -> int:
        """Distinct tokens: p + c + r, a second prompt if there is one, and what further views add."""
        second = 0 if self.rejected_prompt is None else len(self.rejected_prompt)
        return len(self.prompt) + len(self.chosen) + len(self.rejected) + second + self.view_tokens

    @property
    def all_images(self) -> tuple[str, ...]:
        return self.images + (self.rejected_images or ())


@dataclass
class EncodedPairs:
    """A data set of encoded pairs with what was left out on the way."""

    rows: list[EncodedPair]
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedPair:
        """The pair of that index; beyond the last pair the index counts on, visit by visit."""
        visit, place = divmod(index, len(self.rows))
        return replace(self.rows[place], visit=visit) if visit else self.rows[place]

    @property
    def lengths(self) -> list[int]:
        return [row.length for row in self.rows]

    def parts(self, vlm: VLM) -> list[list[PairPart]]:
        """For each pair the parts that the model computes, and the number of tokens of each: the prompt up to its last
        image, the rest of it, and the responses. Pairs of one batch that have a part in common compute it once."""
        return [_parts(row, vlm) for row in self.rows]

    @property
    def image_groups(self) -> list[int]:
        """For each pair the number of the first pair that shows the same images."""
        first: dict[tuple[str, ...], int] = {}
        return [first.setdefault(row.images, index) for index, row in enumerate(self.rows)]

    def subset(self, keep: Callable[[EncodedPair], bool]) -> EncodedPairs:
        return EncodedPairs([row for row in self.rows if keep(row)])


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
    words: bool = False,
    dataset: PairDataset | None = None,
    on_reject: OnReject | None = None,
) -> EncodedPairs:
    """Tokenize every pair and check every image. Where `pairs` are the rows of `dataset`, embedded images stay there.
    `token_weights` weigh what differs between the two responses; `words` also finds the words of the questions.

    A response longer than `max_response_tokens`, or than what the prompt leaves of `max_tokens`, loses its tail, end
    token included; prompts and images are never cut. Images that together have more than `max_pixels_per_pair` on one
    side of a pair are scaled down alike. Left out, counted by reason and passed to `on_reject`: pairs whose responses
    are equal or empty as token ids, pairs longer than the model's positions or whose prompt alone fills `max_tokens`,
    pairs with an image that can't be decoded.
    """
    limits = _Limits(max_response_tokens, max_tokens, max_pixels_per_pair)
    encoder = _Encoder(vlm, store, root, limits, token_weights, words, dataset)
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
        words: bool,
        dataset: PairDataset | None,
    ) -> None:
        self.words, self.dataset = words, dataset
        self.vlm, self.store, self.root, self.limits = vlm, store, root, limits
        self.token_weights = token_weights
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
        end = not pair.unfinished
        shared = self._shared(context, pair.chosen_text, pair.rejected_text)
        if shared:
            said = _ids(encode_response(self.vlm, context + pair.chosen_text)[:shared])
            prompt = torch.cat([prompt, said])
            rejected_prompt = None if rejected_prompt is None else torch.cat([rejected_prompt, said])
        own = prompt if rejected_prompt is None else rejected_prompt
        spans = (pair.chosen_weights, pair.rejected_weights)
        chosen, chosen_weights = self._response(context, shared, pair.chosen_text, spans[0], self._room(prompt), end)
        rejected, rejected_weights = self._response(context, shared, pair.rejected_text, spans[1], self._room(own), end)
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
            self._weights(context, shared, pair.chosen_text, pair.image_weights, len(chosen)),
            words=self._words(pair, images) if self.words else None,
            twin=pair.twin,
            scores=pair.scores,
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

    def _shared(self, context: str, *texts: str) -> int:
        """The number of context tokens that all responses share: with a response after it, the last may differ."""
        if not context:
            return 0
        rows = []
        for text in texts:
            ids, offsets = encode_response(self.vlm, context + text), response_offsets(self.vlm, context + text)
            rows.append([token for token, (_, end) in zip(ids, offsets, strict=True) if end <= len(context)])
        return next(
            (k for k, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), min(map(len, rows))
        )

    def _room(self, prompt: Tensor) -> int | None:
        """The number of tokens that a response to this prompt may have, None without a limit."""
        if self.limits.path is None:
            return self.limits.response
        longest = min(self.limits.path, self.positions or self.limits.path)
        if (room := longest - len(prompt)) < 1:
            raise Quarantined(STAGE, "too_long", f"the prompt alone has {len(prompt)} of {longest} tokens")
        return room if self.limits.response is None else min(room, self.limits.response)

    def _response(
        self,
        context: str,
        shared: int,
        text: str,
        spans: Sequence[Mapping[str, Any]] | None,
        room: int | None,
        end: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Token ids and weights of a response after its context, of which `shared` tokens stand in the prompt; without
        the `end` token where the answer continues."""
        ids = encode_response(self.vlm, context + text, eos=end)[shared:]
        if room is not None and len(ids) > room:
            self.truncated += 1
            ids = ids[:room]
        return _ids(ids), self._weights(context, shared, text, spans, len(ids))

    def _weights(
        self, context: str, shared: int, text: str, spans: Sequence[Mapping[str, Any]] | None, length: int
    ) -> Tensor | None:
        if not spans:
            return None
        own = [{**span, "start": span["start"] + len(context), "end": span["end"] + len(context)} for span in spans]
        found = token_weights(response_offsets(self.vlm, context + text), own)[shared:]
        return torch.tensor(found[:length], dtype=torch.float32)


def _ids(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)


def _parts(row: EncodedPair, vlm: VLM) -> list[PairPart]:
    visual = torch.tensor(vlm.visual_token_ids, dtype=torch.int32)
    parts: list[PairPart] = []

    def add(name: bytes, ids: Tensor) -> bytes:
        name = hashlib.blake2b(name + ids.numpy().tobytes(), digest_size=16).digest()
        if len(ids) and (name, len(ids)) not in parts:
            parts.append((name, len(ids)))
        return name

    def prompt(ids: Tensor, images: tuple[str, ...]) -> bytes:
        shown = torch.isin(ids, visual).nonzero()
        # Beginnings shorter than this are not shared; a prompt that sees itself in both directions is so as a whole.
        whole = vlm.family.blocks == "prompt" or not len(shown) or int(shown[-1]) + 1 < LEAST_SHARED
        end = len(ids) if whole else int(shown[-1]) + 1
        return add(add(repr(images).encode(), ids[:end]), ids[end:])

    first = prompt(row.prompt, row.images)
    add(first, row.chosen)
    images = row.images if row.rejected_images is None else row.rejected_images
    add(first if row.rejected_prompt is None else prompt(row.rejected_prompt, images), row.rejected)
    if row.view_tokens:
        parts.append((f"views {row.id}".encode(), row.view_tokens))
    return parts


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
            image_tokens=[self.store.placeholder_tokens(*image) for image in position],
            scores=score_tensors([row.scores for row in rows]),
        )
        return {"batch": batch if self.add_views is None else self.add_views(batch, rows)}


def _long(ids: Tensor | None) -> Tensor | None:
    return None if ids is None else ids.long()


def _weights(weights: Tensor | None, ids: Tensor) -> Tensor:
    return torch.ones(len(ids)) if weights is None else weights
