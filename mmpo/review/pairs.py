"""A folder of pairs as a source of items, a million of them too: numbers of every pair are kept (about 13 bytes each),
texts and pictures are read when a pair is shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import PairDataset, check_pairs, open_shard, shard_paths
from mmpo.data.rows import to_row
from mmpo.progress import task
from mmpo.report.cards import pair_card
from mmpo.review.items import PAIR_CHOICES, PictureList, QueueRows, ReviewItem, content_digest

PROBLEMS = (
    ("alike", 8, "both sides say the same but for case and punctuation"),
    ("against", 4, "the judge against itself: rejected has the better score"),
    ("tiny", 2, "the margin is one of the smallest twentieth"),
    ("longer", 1, "one side is more than twice as long as the other"),
    ("unfinished", 1, "the answers are cut off"),
)
"""(name, weight, words): pairs are queued by the sum of the weights, then by the margin."""
BITS = {name: 1 << place for place, (name, _, _) in enumerate(PROBLEMS)}
BATCH = 1 << 14
CONTENT = ("id", "prompt", "chosen", "rejected", "images", "rejected_images", "videos")
"""What a decision is about. Scores, weights and provenance may change without making it stale."""
_LETTERS = r"[^\pL\pN]+"


def pair_digest(pair: PreferencePair) -> str:
    """The name of a pair's content."""
    scores = sorted(pair.scores or {})
    row = to_row(pair, scores)
    return content_digest([row[name] for name in CONTENT])


class PairSource:
    """The pairs of a folder. Reading them to find problems takes a few seconds for each 100,000."""

    noun, choices = "pair", PAIR_CHOICES

    def __init__(self, folder: Path, split: str = "train") -> None:
        check_pairs(folder, split)
        self.folder = self.root = folder
        self.split = split
        self._dataset = PairDataset(folder, split)
        self._reading = threading.Lock()  # the dataset is for one thread at a time
        self._flags, self._margins = self._scan()

    def __len__(self) -> int:
        return len(self._dataset)

    def order(self) -> QueueRows:
        """All pairs, worst problems first; pairs alike in that, the smallest margin first."""
        weights = sum((self._flags & BITS[name] > 0) * np.int16(weight) for name, weight, _ in PROBLEMS)
        return np.lexsort((np.nan_to_num(self._margins, nan=np.inf), -np.asarray(weights, np.int16)))

    def rows_of(self, ids: Collection[str]) -> dict[str, int]:
        """The places of the pairs with these ids, for those that are there."""
        found: dict[str, int] = {}
        if not ids:
            return found
        wanted, start = pa.array(sorted(ids)), 0
        for path in shard_paths(self.folder, self.split):
            with open_shard(path) as file:
                column = file.read(columns=["id"])["id"]
            for place in np.flatnonzero(pc.is_in(column, value_set=wanted).to_numpy()).tolist():
                found[column[place].as_py()] = start + place
            start += len(column)
        return found

    def item(self, row: int) -> ReviewItem:
        with self._reading:
            pair = self._dataset[row]
        pictures = PictureList(row, self.root)
        card = pair_card(pair, pictures.show, problems=self._problems(row))
        sides = {"chosen": pair.chosen_text, "rejected": pair.rejected_text}
        alone = len(pair.chosen) == len(pair.rejected) == 1
        return ReviewItem(pair.id, pair_digest(pair), card, sides, alone, tuple(pictures.pictures))

    def _problems(self, row: int) -> list[str]:
        return [words for name, _, words in PROBLEMS if self._flags[row] & BITS[name]]

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        flags: list[np.ndarray] = []
        margins: list[np.ndarray] = []
        with task("looking for problems", len(self)) as running:
            for batch in self._batches():
                bits, margin = _flags(batch)
                flags.append(bits)
                margins.append(margin)
                running.advance(len(bits))
        all_flags = np.concatenate(flags) if flags else np.zeros(0, np.uint8)
        all_margins = np.concatenate(margins) if margins else np.zeros(0, np.float32)
        known = all_margins[~np.isnan(all_margins)]
        if len(known) >= 20:
            all_flags |= np.where(np.abs(all_margins) <= np.quantile(np.abs(known), 0.05), BITS["tiny"], 0).astype(
                np.uint8
            )
        return all_flags, all_margins

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for path in shard_paths(self.folder, self.split):
            with open_shard(path) as file:
                names = [
                    one for one in ("chosen", "rejected", "scores", "unfinished") if one in file.schema_arrow.names
                ]
                yield from file.iter_batches(batch_size=BATCH, columns=names)


def score_pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Scores of the two sides that belong together: `chosen` and `rejected`, `chosen_reward` and `rejected_reward` …"""
    for name in names:
        other = re.sub("chosen", "rejected", name)
        if "chosen" in name and other in names:
            yield name, other


def _flags(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """The problems of a batch's pairs [n] that need no other pair, and the margins of the first scores that have one,
    nan where there is none."""
    (chosen, first), (rejected, second) = _texts(batch.column("chosen")), _texts(batch.column("rejected"))
    bits = np.zeros(batch.num_rows, np.uint8)
    longer, shorter = np.maximum(chosen, rejected), np.minimum(chosen, rejected)
    bits |= np.where(longer > 2 * np.maximum(shorter, 20), BITS["longer"], 0).astype(np.uint8)
    if first is not None and second is not None:
        alike = pc.fill_null(pc.equal(_letters(first), _letters(second)), False)
        bits |= np.where(alike.to_numpy(zero_copy_only=False), BITS["alike"], 0).astype(np.uint8)
    margins = np.full(batch.num_rows, np.nan, np.float32)
    names = batch.schema.names
    if "scores" in names:
        scores = batch.column("scores")
        kept = [field.name for field in scores.type]
        for one, other in score_pairs(kept):
            ours, theirs = (pc.struct_field(scores, name).to_numpy(zero_copy_only=False) for name in (one, other))
            margins = (ours.astype(float) - theirs.astype(float)).astype(np.float32)
            break
        else:
            if "margin" in kept:
                margins = pc.struct_field(scores, "margin").to_numpy(zero_copy_only=False).astype(np.float32)
        bits |= np.where(margins < 0, BITS["against"], 0).astype(np.uint8)
    if "unfinished" in names:
        cut = pc.fill_null(batch.column("unfinished"), False).to_numpy(zero_copy_only=False)
        bits |= np.where(cut, BITS["unfinished"], 0).astype(np.uint8)
    return bits, margins


def _letters(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_lower(texts), _LETTERS, " ")


def _texts(column: pa.Array) -> tuple[np.ndarray, pa.Array | None]:
    """Characters of each side [n]; and the texts, where every side is one message of one part."""
    messages = column.flatten()
    content = pc.struct_field(messages, "content")
    if not pa.types.is_list(content.type):  # plain strings, in folders that others wrote
        return pc.fill_null(pc.utf8_length(content), 0).to_numpy(zero_copy_only=False), None
    parts = content.flatten()
    text = pc.struct_field(parts, "text")
    lengths = np.concatenate([[0], np.cumsum(pc.fill_null(pc.utf8_length(text), 0).to_numpy(zero_copy_only=False))])
    per_message = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(content), 0).to_numpy())])
    per_row = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())])
    single = bool(np.all(np.diff(per_row) == 1) and np.all(np.diff(per_message) == 1))
    return np.diff(lengths[per_message[per_row]]), text if single else None
