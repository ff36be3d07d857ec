"""Which pairs of a folder a training held out: found again as it found them, from ids and pictures alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.diagnose.settings import HeldOut
from mmpo.files.atomic import read_jsonl
from mmpo.progress import track
from mmpo.trainers.encoded import EncodedPair, EncodedPairs
from mmpo.trainers.holdout import STRADDLES, hold_out

logger = logging.getLogger(__name__)

_NO_TOKENS = torch.zeros(0, dtype=torch.int32)


def held_out_ids(folder: Path, how: HeldOut) -> frozenset[str]:
    """The ids that the training held out; none, with a warning, where the pairs are no longer those that it saw."""
    rejects = list(read_jsonl(how.rejects)) if how.rejects is not None and how.rejects.is_file() else []
    unused = {str(row.get("id")) for row in rejects if row.get("reason") != STRADDLES}
    rows = [
        EncodedPair(
            pair.id, _NO_TOKENS, _NO_TOKENS, _NO_TOKENS, None, None, tuple(_pictures(pair)), twin=pair.twin
        )
        for pair in track(read_pairs(folder), "finding the held-out pairs")
        if pair.id not in unused
    ]  # fmt: skip
    quiet = logging.getLogger("mmpo.trainers.holdout")
    before, quiet.disabled = quiet.disabled, True  # the training has said it
    try:
        _, held = hold_out(EncodedPairs(rows), how.fraction, how.seed)
    finally:
        quiet.disabled = before
    if len(held) != how.pairs:
        logger.warning(
            "%s: the training held out %s pairs, and %s are found now: the folder was changed since. No pair counts "
            "as held out", folder, f"{how.pairs:,}", f"{len(held):,}",
        )  # fmt: skip
        return frozenset()
    return frozenset(row.id for row in held.rows)


def _pictures(pair: PreferencePair) -> Iterator[str]:
    """Names of all pictures of a pair; equal ones get equal names."""
    for source in (*pair.images, *(pair.rejected_images or ())):
        yield _name(source)
    for video in pair.videos or ():
        if video.get("path") is not None:
            yield f"video {video['path']}"
        for frame in video.get("frames") or ():
            yield _name(frame)


def _name(source: bytes | str) -> str:
    return source if isinstance(source, str) else hashlib.blake2b(source, digest_size=16).hexdigest()
