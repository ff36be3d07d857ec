"""Completions of other pairs behind a pair's own question: KTO's mismatched rows, from which its reference point comes.

A pair gets the chosen answer of the next pair of its micro-batch, cyclically, that shows other images (or, without
images, asks something else): an answer about the same picture would not be mismatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmpo.errors import UserError
from mmpo.trainers.encoded import EncodedPair


def others_of(rows: Sequence[EncodedPair]) -> list[int]:
    """For each pair of a batch the place of the pair whose chosen answer it gets. Raises `UserError` where all pairs
    show the same."""
    shown = [_shown(row) for row in rows]
    found = []
    for place, own in enumerate(shown):
        ahead = ((place + step) % len(rows) for step in range(1, len(rows)))
        other = next((k for k in ahead if shown[k] != own), None)
        if other is None:
            raise _alone(rows)
        found.append(other)
    return found


def check_others(rows: Sequence[EncodedPair], batches: Iterable[Sequence[int]]) -> None:
    """Raises `UserError` for batches, of indices into `rows`, one of which has no mismatched answers: before any work,
    not when the batch comes up."""
    for batch in batches:
        others_of([rows[index % len(rows)] for index in batch])


def _shown(row: EncodedPair) -> tuple[object, ...]:
    return row.images or tuple(row.prompt.tolist())


def _alone(rows: Sequence[EncodedPair]) -> UserError:
    what = "has one pair" if len(rows) == 1 else f"shows one image in all of its {len(rows)} pairs"
    return UserError(
        f"the objective needs answers about other images, and a batch {what} (pair {rows[0].id})",
        hint="choose a batch_size that leaves no pair over, set group_images: false, or raise tokens_per_batch",
    )
