"""Answers learnt with the pairs: HA-DPO's auxiliary language-modelling data, so many samples drawn for each pair.

The draw is an endless stream of shuffled passes over the samples. At r samples a pair, the pair at place n of the run
(steps in order, and the pairs of a step in order) gets samples floor(n r) to floor((n + 1) r) of the stream, so a run
that resumes, or is divided in another way into accumulation and processes, sees the same samples in the same step.

A step's loss adds up its samples and divides by its pairs: a sample counts as much as a pair, times the term's weight,
however rarely it is drawn. With one sample a pair this is HA-DPO's mean over samples.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count, islice
from math import floor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mmpo.data.convert.hadpo import DESCRIBE
from mmpo.data.convert.llava import turns_in
from mmpo.data.convert.media import below, images_of
from mmpo.data.convert.rows import read_rows
from mmpo.data.convert.texts import ChatTurn, bad, messages_of, need
from mmpo.data.image_digests import digests_of, shown_in
from mmpo.data.pair import Video, join_text
from mmpo.data.reader import read_pairs, shard_paths
from mmpo.errors import Quarantined, UserError
from mmpo.files.paths import links_allowed
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.pairs import AnswerBatch, PairBatch
from mmpo.progress import track
from mmpo.trainers.collate import EncodedPair, OnReject
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import RowMedia, pixel_tensors, prompt_ids
from mmpo.trainers.schedule import Schedule
from mmpo.trainers.settings import AuxiliarySettings

STAGE = "auxiliary"


class _Named(Protocol):
    @property
    def id(self) -> str: ...


class _Shown(_Named, Protocol):
    @property
    def images(self) -> tuple[str, ...]: ...


Source = TypeVar("Source", bound=_Named)
Encoded = TypeVar("Encoded", bound=_Shown)


@dataclass(frozen=True)
class Sample:
    """One conversation about some images and videos: for each answer the messages before it and its text."""

    id: str
    answers: tuple[tuple[list[dict[str, Any]], str], ...]
    images: tuple[bytes | str, ...]
    videos: tuple[Video, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as token ids (int32): a prompt and a response for each answer."""

    id: str
    prompts: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    images: tuple[str, ...]


@dataclass
class Samples:
    """Encoded samples with what was left out on the way."""

    rows: list[EncodedSample]
    store: ImageStore
    settings: AuxiliarySettings
    dropped: Counter[str] = field(default_factory=Counter)

    stage = STAGE

    def __len__(self) -> int:
        return len(self.rows)

    def rate(self, pairs: int) -> Fraction:
        """Samples for each of so many training pairs."""
        return self.settings.rate(len(self), pairs)

    def collator(self, inner: Callable[..., dict[str, PairBatch]]) -> AuxiliaryCollator:
        return AuxiliaryCollator(inner, self.store)

    def digest(self) -> str:
        """A fingerprint of what is learnt, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            digest.update(repr((row.id, row.images)).encode())
            for ids in (*row.prompts, *row.responses):
                digest.update(ids.numpy().tobytes())
        return digest.hexdigest()


def read_samples(settings: AuxiliarySettings) -> Iterator[Sample | tuple[str, Quarantined]]:
    """The samples of a folder of pairs (their chosen side), of LLaVA conversations or of captions; a row that can't be
    used comes as its place and the reason."""
    if settings.data.is_dir() and shard_paths(settings.data, "train"):
        for pair in read_pairs(settings.data):
            answers = tuple(
                ([*pair.prompt, *pair.chosen[:turn]], join_text(pair.chosen[turn : turn + 1]))
                for turn in range(0, len(pair.chosen), 2)
            )
            yield Sample(pair.id, answers, tuple(pair.images), tuple(pair.videos or ()))
        return
    root = settings.image_root
    for row in read_rows(settings.data):
        try:
            if row.error is not None:
                raise row.error
            turns, images = _caption(row.data, root) if "caption" in row.data else _conversation(row.data, root)
            answers = tuple(
                (messages_of(turns[:number], len(images), trim=True), text)
                for number, (role, text) in enumerate(turns)
                if role == "assistant" and number
            )
            if not answers or not all(text.strip() for _, text in answers):
                raise bad("empty_response", "an answer has no text, or there is none")
            yield Sample(str(row.data.get("id", row.key)), answers, tuple(images))
        except Quarantined as error:
            yield row.place, error


def _conversation(row: Mapping[str, Any], root: Path) -> tuple[list[ChatTurn], list[bytes | str]]:
    return turns_in(row, "conversations"), images_of(row, root, "image", "images")


def _caption(row: Mapping[str, Any], root: Path) -> tuple[list[ChatTurn], list[bytes | str]]:
    """MiniGPT-4's second-stage data, `{"annotations": [{"image_id", "caption"}]}` next to `image/ID.jpg`. The
    instruction is one of four, the same for an image in every run."""
    name = str(need(row, "image_id", kind=(str, int)))
    path = below(f"image/{name}.jpg", root)
    question = random.Random(name).choice(DESCRIBE)
    return [("user", question), ("assistant", need(row, "caption"))], [
        path if (root / path).is_file() else f"{name}.jpg"
    ]


def sample_digests(settings: AuxiliarySettings) -> frozenset[str]:
    """The pictures of the samples, by their pixels (`mmpo.data.image_digests`)."""
    with links_allowed(settings.allow_links):
        samples = (sample for sample in read_samples(settings) if isinstance(sample, Sample))
        shown = (group for sample in samples for group in shown_in(sample.images, sample.videos))
        return frozenset(digests_of(shown, settings.image_root))


def encode_samples(
    vlm: VLM,
    settings: AuxiliarySettings,
    store: ImageStore,
    *,
    max_response_tokens: int | None = None,
    on_reject: OnReject | None = None,
) -> Samples:
    """Tokenize every sample and check every image; what can't be used is left out, counted and passed to
    `on_reject`. Raises `UserError` if nothing is left."""
    with links_allowed(settings.allow_links):
        rows, dropped = encode_rows(
            track(read_samples(settings), "reading auxiliary data"),
            lambda sample: _encoded(vlm, store, sample, settings, max_response_tokens),
            store,
            STAGE,
            f"{settings.data}: no auxiliary sample to learn",
            on_reject,
        )
    return Samples(rows, store, settings, dropped)


def encode_rows(
    read: Iterable[Source | tuple[str, Quarantined]],
    encode: Callable[[Source], Encoded],
    store: ImageStore,
    stage: str,
    nothing: str,
    on_reject: OnReject | None,
) -> tuple[list[Encoded], Counter[str]]:
    """The rows that can be learnt, and how many were left out, by reason: those that reading or `encode` quarantines
    and those with an image that can't be decoded; each is passed to `on_reject` as of this `stage`. Raises `UserError`,
    which says `nothing` and why, if none is left."""
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}

    def reject(name: str, error: Quarantined) -> None:
        dropped[error.reason] += 1
        first.setdefault(error.reason, error.detail)
        if on_reject is not None:
            on_reject(name, Quarantined(stage, error.reason, error.detail))

    rows: list[Encoded] = []
    for row in read:
        if isinstance(row, tuple):
            reject(*row)
            continue
        try:
            rows.append(encode(row))
        except Quarantined as error:
            reject(row.id, error)
    broken = store.broken({key for row in rows for key in row.images})
    kept = []
    for encoded in rows:
        if failed := next((broken[key] for key in encoded.images if key in broken), None):
            reject(encoded.id, failed)
        else:
            kept.append(encoded)
    if not kept:
        reasons = ", ".join(f"{n} {reason}, as {first[reason]}" for reason, n in sorted(dropped.items()))
        raise UserError(f"{nothing} ({reasons or 'it is empty'})")
    return kept, dropped


def _encoded(
    vlm: VLM, store: ImageStore, sample: Sample, settings: AuxiliarySettings, limit: int | None
) -> EncodedSample:
    media = RowMedia(vlm, store, sample.videos, root=settings.image_root, links=settings.allow_links)
    images = media.keys(sample.answers[-1][0], sample.images)
    if broken := store.broken([key for key in images if not vlm.family.fixed_image_size]):
        raise next(iter(broken.values()))  # the prompt can't be made without the picture
    positions = getattr(vlm.config.get_text_config(), "max_position_embeddings", None)
    prompts, responses = [], []
    for messages, text in sample.answers:
        messages = media.prompt(messages)
        shown = sum(part["type"] != "text" for message in messages for part in message["content"])
        prompt = prompt_ids(vlm, store, messages, images[:shown])
        response = encode_response(vlm, text)[:limit]
        if positions and len(prompt) + len(response) > positions:
            raise Quarantined(STAGE, "too_long", f"{len(prompt) + len(response)} tokens; the model has {positions}")
        prompts.append(torch.tensor(prompt, dtype=torch.int32))
        responses.append(torch.tensor(response, dtype=torch.int32))
    return EncodedSample(sample.id, tuple(prompts), tuple(responses), images)


def draw(
    n_samples: int, schedule: Schedule, seed: int, per_pair: Fraction = Fraction(1), name: str = STAGE
) -> list[list[list[tuple[int, ...]]]]:
    """For each step, micro-batch and pair of the schedule the samples that go with the pair. Data of another `name`
    comes in an order of its own."""
    stream = _stream(n_samples, random.Random(f"{seed}/{name}"))
    places = count()

    def of_the_next_pair() -> tuple[int, ...]:
        place = next(places)
        return tuple(islice(stream, floor((place + 1) * per_pair) - floor(place * per_pair)))

    return [[[of_the_next_pair() for _ in batch] for batch in step] for step in schedule.steps]


def _stream(n: int, rng: random.Random) -> Iterator[int]:
    while True:
        order = list(range(n))
        rng.shuffle(order)
        yield from order


class PairsWithSamples:
    """Pairs and samples under one index `(pair, samples)`, as a data loader asks for them. Either may be something
    else: pairs that have samples already, groups of responses."""

    def __init__(self, pairs: Any, samples: Any) -> None:
        self.pairs, self.samples = pairs, samples

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: tuple[Any, tuple[int, ...]]) -> tuple[Any, list[Any]]:
        return self.pairs[index[0]], [self.samples.rows[sample] for sample in index[1]]


class AuxiliaryCollator:
    """Pairs with their samples to one `PairBatch`; `pairs` collates the pairs."""

    def __init__(self, pairs: Callable[..., dict[str, PairBatch]], store: ImageStore) -> None:
        self._pairs, self._store = pairs, store

    def __call__(self, rows: Sequence[tuple[EncodedPair, Sequence[EncodedSample]]]) -> dict[str, PairBatch]:
        collated = self._pairs([pair for pair, _ in rows])
        samples = answer_batch([sample for _, own in rows for sample in own], self._store)
        return {**collated, "batch": replace(collated["batch"], auxiliary=samples)}


def answer_batch(samples: Sequence[EncodedSample], store: ImageStore) -> AnswerBatch:
    """Samples as the scorer reads them; an image that several show is in the batch once."""
    shown = [image for sample in samples for image in store.shown(sample.images)]
    position = {image: i for i, image in enumerate(dict.fromkeys(shown))}
    turns = [
        (prompt, response, number, sample)
        for number, sample in enumerate(samples)
        for prompt, response in zip(sample.prompts, sample.responses, strict=True)
    ]
    return AnswerBatch(
        prompt_ids=[prompt.long() for prompt, *_ in turns],
        response_ids=[response.long() for _, response, *_ in turns],
        image_index=[[position[image] for image in store.shown(sample.images)] for *_, sample in turns],
        owner=[number for *_, number, _ in turns],
        image_inputs=pixel_tensors(store, list(position)),
        image_tokens=[store.placeholder_tokens(*image) for image in position],
    )
