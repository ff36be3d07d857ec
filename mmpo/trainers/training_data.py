"""The data that a run trains and evaluates on, read from the folders that its settings name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState

from mmpo.data.shards import PairDataset, Rejects, read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairBatch
from mmpo.objectives import Objective
from mmpo.progress import track
from mmpo.trainers.auxiliary import Samples, encode_samples
from mmpo.trainers.collate import EncodedPair, EncodedPairs, OnReject, encode_pairs
from mmpo.trainers.groups import GroupNeeds, Groups, check_group_scores, encode_groups
from mmpo.trainers.holdout import hold_out
from mmpo.trainers.images import ImageStore
from mmpo.trainers.reference import ReferenceLogps, cached_reference, with_reference
from mmpo.trainers.references import References
from mmpo.trainers.responses import WantedParts
from mmpo.trainers.schedule import cut
from mmpo.trainers.scores import with_scores
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.views.drawn import BatchFields, sample_bank
from mmpo.trainers.views.view_maker import view_maker


@dataclass(frozen=True)
class TrainingData:
    """Pairs to train on and to evaluate on (maybe none), samples and groups to learn beside them, and the store of all
    images. `dropped` counts by reason the pairs that could not be used, `truncated` the answers cut at their end;
    `add_views` adds what the objective compares with to a batch."""

    pairs: EncodedPairs
    eval_pairs: EncodedPairs
    samples: Samples | None
    store: ImageStore
    dropped: Counter[str]
    truncated: int
    add_views: Callable[[PairBatch, Sequence[EncodedPair]], PairBatch] | None
    groups: Groups | None = None

    def digest(self) -> str:
        """A fingerprint of what is trained on: ids, tokens, token weights, scores and images, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.pairs.rows:
            digest.update(repr((row.id, row.all_images)).encode())
            for tensor in (row.prompt, row.chosen, row.rejected, row.chosen_weights, row.rejected_weights):
                digest.update(b"" if tensor is None else tensor.numpy().tobytes())
            for own in (row.chosen_turns, row.rejected_turns):
                digest.update(b"" if own is None else own.numpy().tobytes())
            for name, part in [*sorted(row.chosen_parts.items()), *sorted(row.rejected_parts.items())]:
                digest.update(name.encode() + part.numbers.numpy().tobytes() + part.scores.numpy().tobytes())
            digest.update(b"" if row.scores is None else repr(sorted(row.scores.items())).encode())
        beside = [drawn.digest() for drawn in (self.samples, self.groups) if drawn is not None]
        return digest.hexdigest() + "".join(beside)


@dataclass
class Added:
    """Several additions to a batch, one after another."""

    adders: Sequence[Callable[[PairBatch, Sequence[EncodedPair]], PairBatch]]

    def __call__(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        for add in self.adders:
            batch = add(batch, rows)
        return batch


def _fields(settings: TrainSettings, objective: Objective, vlm: VLM, rows: Sequence[EncodedPair]) -> BatchFields | None:
    """What batches need besides views; None for nothing."""
    bank = {}
    if settings.samples_from is not None and "samples" in objective.reads:
        bank = sample_bank(vlm, settings.samples_from.data, rows, settings.max_response_tokens)
    positions = "positions" in objective.reads
    return BatchFields(positions, bank, settings.seed) if positions or bank else None


def read_training_data(
    settings: TrainSettings,
    objective: Objective,
    vlm: VLM,
    references: References,
    rejects_file: Path,
    state: PartialState,
) -> TrainingData:
    """Raises `UserError` where no pair is left to train on. What can't be used is listed in `rejects_file`, which the
    main process writes from the start."""
    store = ImageStore(vlm, settings.image_cache_mb * 2**20, settings.max_pixels)
    with ExitStack() as stack:
        on_reject = None
        if state.is_main_process:
            rejects_file.unlink(missing_ok=True)
            on_reject = stack.enter_context(Rejects(rejects_file)).add
        pairs, eval_pairs, dropped = _pairs(settings, objective, vlm, store, on_reject)
        if not len(pairs):
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
            raise UserError(
                f"{settings.pairs}: no pair left to train on ({reasons or 'the folder is empty'})",
                hint=f"see {rejects_file}",
            )
        pairs, eval_pairs = with_scores(settings.scores, objective, pairs, eval_pairs)
        samples = None
        if settings.auxiliary is not None:
            samples = encode_samples(
                vlm, settings.auxiliary, store, max_response_tokens=settings.max_response_tokens, on_reject=on_reject
            )
        groups = None
        if settings.groups is not None:
            groups = encode_groups(
                vlm,
                settings.groups,
                store,
                needs=GroupNeeds.of(objective, settings.seed),
                max_response_tokens=settings.max_response_tokens,
                on_reject=on_reject,
            )
            check_group_scores(objective, ((row.id, row.scores) for row in groups.rows))
    truncated = pairs.truncated + eval_pairs.truncated
    rows = [*pairs.rows, *eval_pairs.rows]
    maker = view_maker(settings, objective, vlm, store, rows, (row.id for row in eval_pairs.rows))
    fields = _fields(settings, objective, vlm, rows)
    adders = [made for made in (fields, maker) if made is not None]  # samples see the pairs' own images only
    if adders:
        pairs, eval_pairs = (
            replace(
                some,
                rows=[replace(row, view_tokens=sum(made.extra_tokens(row) for made in adders)) for row in some.rows],
            )
            for some in (pairs, eval_pairs)
        )
    if references.kept:
        pairs = _with_cached_references(settings, settings.pairs, vlm, references, pairs, store, state)
        if len(eval_pairs):
            folder = settings.eval_pairs or settings.pairs
            eval_pairs = _with_cached_references(settings, folder, vlm, references, eval_pairs, store, state)
        references.release_kept()
    add = Added([made.add for made in adders]) if adders else None
    return TrainingData(pairs, eval_pairs, samples, store, dropped, truncated, add, groups)


def _pairs(
    settings: TrainSettings, objective: Objective, vlm: VLM, store: ImageStore, on_reject: OnReject | None
) -> tuple[EncodedPairs, EncodedPairs, Counter[str]]:
    """The pairs of both sides as token ids, and why others were dropped. The second side is read, or held out."""

    def read(folder: Path, label: str) -> EncodedPairs:
        return encode_pairs(
            vlm,
            track(read_pairs(folder), label),
            store,
            root=folder,
            max_response_tokens=settings.max_response_tokens,
            max_tokens=settings.max_tokens,
            max_pixels_per_pair=settings.max_pixels_per_pair,
            token_weights=settings.token_weights,
            parts=WantedParts(
                tuple(name for name in ("steps", "segments") if name in objective.reads), settings.parts == "weights"
            ),
            words=any(view.prompt == "perturbed" for view in objective.views),
            dataset=PairDataset(folder),
            on_reject=on_reject,
        )

    pairs = read(settings.pairs, "reading pairs")
    if settings.eval_pairs is not None:
        eval_pairs = read(settings.eval_pairs, "reading evaluation pairs")
        return pairs, eval_pairs, pairs.dropped + eval_pairs.dropped
    kept, held = hold_out(
        pairs,
        settings.eval_fraction,
        settings.seed,
        images=lambda row: store.originals(row.all_images),
        on_reject=on_reject,
    )
    return replace(kept, truncated=pairs.truncated), held, pairs.dropped + kept.dropped


def _with_cached_references(
    settings: TrainSettings,
    folder: Path,
    vlm: VLM,
    references: References,
    pairs: EncodedPairs,
    store: ImageStore,
    state: PartialState,
) -> EncodedPairs:
    """The pairs with the references' log-probs from `folder/reference`, computed first where they are missing."""
    parent = folder / "reference"
    shared = settings.sharing != "off" and vlm.family.sharing and settings.tokens_per_batch is not None
    parts = pairs.parts(vlm) if shared else None
    batches = cut(pairs.lengths, settings.batch_size, settings.tokens_per_batch, parts)
    how = {"sharing": settings.sharing, "attention": settings.attention}
    ranks = {"rank": state.process_index, "world": state.num_processes}
    for name in references.kept:
        other = references.fixed.get(name)
        cached_reference(vlm, pairs, store, parent, batches, how, reference=other, **ranks)
        state.wait_for_everyone()
        pairs = with_reference(pairs, ReferenceLogps.open(parent, vlm, other), store, name)
    return pairs
