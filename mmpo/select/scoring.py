"""The stage that scores pairs: log-probs of chosen and rejected under a model with and without its adapter.

select/logps/00000.parquet …    UNIT pairs each (`logps.py`); whole or not there, so that a killed stage goes on
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import PairDataset, check_pages, open_shard
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import remove_leftovers
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.scoring.score import PairScorer
from mmpo.progress import task
from mmpo.select.logps import WHY, write_logps
from mmpo.select.settings import CommonSelectSettings
from mmpo.select.table import ALIGNMENT, POLICY, REFERENCE, TOKENS
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import cut
from mmpo.types import ResponseLogps

logger = logging.getLogger("mmpo.select")

UNIT = 256
"""Pairs in memory together, and what a killed stage loses at most."""
CACHE_BYTES = 256 * 2**20


def score_pairs_of(settings: CommonSelectSettings, folder: Path) -> None:
    """Score the pairs of `settings` into `folder`, as far as they aren't there yet. A file that is damaged is made
    again."""
    dataset = PairDataset(settings.pairs)
    paths = [folder / f"{number:05d}.parquet" for number in range(math.ceil(len(dataset) / UNIT))]
    remove_leftovers(folder)
    todo = [number for number, path in enumerate(paths) if not _whole(path)]
    if not todo:
        return
    assert settings.model is not None
    vlm = load_vlm(
        settings.model,
        adapter=settings.adapter,
        dtype=settings.dtype,
        video_input=settings.video_input,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    vlm.model.eval()
    alignment = any(name in ALIGNMENT for name in settings.reads())
    scorer = PairScorer(
        vlm,
        reference="none" if settings.adapter is None else "adapter_off",
        reads=("log_sum_squares",) if alignment else (),
    )
    with task("scoring pairs", len(dataset)) as running:
        running.advance(len(dataset) - sum(min(UNIT, len(dataset) - number * UNIT) for number in todo))
        for number in todo:
            pairs = [dataset[i] for i in range(number * UNIT, min(len(dataset), (number + 1) * UNIT))]
            write_logps(paths[number], _scored(settings, vlm, scorer, pairs, alignment))
            running.advance(len(pairs))


def _whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with open_shard(path) as file:
            check_pages(file, path)
    except UserError:
        logger.warning("%s: damaged; its pairs are scored again", path)
        path.unlink(missing_ok=True)
        return False
    return True


@torch.no_grad()
def _scored(
    settings: CommonSelectSettings, vlm: VLM, scorer: PairScorer, pairs: Sequence[PreferencePair], alignment: bool
) -> dict[str, list[str | float | None]]:
    """The columns of one file."""
    why: dict[str, str] = {}

    def leave_out(name: str, error: Quarantined) -> None:
        why[name] = error.reason

    store = ImageStore(vlm, CACHE_BYTES, settings.max_pixels)
    encoded = encode_pairs(vlm, pairs, store, root=settings.pairs, on_reject=leave_out)
    collate = PairCollator(store)
    names = [*POLICY, *REFERENCE, *TOKENS, *(ALIGNMENT if alignment else ())]
    found: dict[str, dict[str, float]] = {}
    for batch in cut(encoded.lengths, settings.batch_size):
        logps = scorer(collate([encoded[i] for i in batch])["batch"].to(vlm.device))
        sides = [_columns(side, alignment) for side in (logps.chosen, logps.rejected)]
        columns = [column.tolist() for both in zip(*sides, strict=True) for column in both]
        for i, values in zip(batch, zip(*columns, strict=True), strict=True):
            found[encoded[i].id] = dict(zip(names, values, strict=True))
    rows = [found.get(pair.id, {}) for pair in pairs]
    return {
        "id": [pair.id for pair in pairs],
        **{name: [row.get(name) for row in rows] for name in names},
        WHY: [None if row else why.get(pair.id, "not_scored") for pair, row in zip(pairs, rows, strict=True)],
    }


def _columns(side: ResponseLogps, alignment: bool) -> list[Tensor]:
    """Policy, reference (the policy where there is none), length and alignment of each response, [b]."""
    reference = side.policy if side.reference is None else side.reference
    found = [side.policy.double().sum(-1), reference.double().sum(-1), side.lengths.double()]
    if alignment:
        unlike = ((side.policy - side.read("log_sum_squares")) * side.mask).double().sum(-1)
        found.append(unlike / side.lengths.clamp_min(1))
    return found
