"""From the flat log-probs of scored segments to the sides of pairs.

Shapes: b pairs, t scored tokens of a response (padded), n all scored tokens, h hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.models.crossing import placed
from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.segment_logps import SegmentLogps
from mmpo.models.tree.layout import TreeBatch
from mmpo.types import PairLogps, ResponseLogps, ViewSpec

SECOND: Literal["second_reference"] = "second_reference"
"""The field of `ResponseLogps.more` that holds a second reference's log-probs."""


class Spread:
    """Puts flat numbers of the scored segments, [n] or [n, h] in the layout's order, into right-padded sides [b, t]."""

    def __init__(self, leaf: Sequence[int], lengths: Sequence[int]) -> None:
        self.leaf, self.lengths = leaf, list(lengths)

    def __call__(self, flat: Tensor | None, paths: slice) -> Tensor | None:
        if flat is None:
            return None
        parts = flat.split(self.lengths)
        return pad_sequence([parts[number] for number in self.leaf[paths]], batch_first=True)

    def mask(self, paths: slice, device: torch.device) -> Tensor:
        own = [self.lengths[number] for number in self.leaf[paths]]
        return torch.arange(max(own), device=device) < placed(own, device)[:, None]


def path_slices(batch: PairBatch) -> dict[str | ViewSpec, slice]:
    """Which of `batch.paths()` belong to the `chosen` side, to the `rejected` one and to each view."""
    end = 2 * len(batch)
    found: dict[str | ViewSpec, slice] = {"chosen": slice(0, end, 2), "rejected": slice(1, end, 2)}
    for spec, view in batch.views.items():
        found[spec] = slice(end, end := end + len(view.response_ids))
    return found


def pair_logps(
    batch: PairBatch,
    leaf: Sequence[int],
    layout: TreeBatch,
    policy: SegmentLogps,
    reference: SegmentLogps | None,
    second: SegmentLogps | None = None,
) -> PairLogps:
    """The log-probs [n] of the scored segments as sides [b, t]; `leaf` names the segments of the batch's paths. Those
    of a `second` reference are kept of chosen and rejected alone."""
    spread = Spread(leaf, layout.lengths)
    whole = policy.hidden is not None and len(policy.hidden) != len(policy.logps)  # of the sequence, not the response
    states = Spread(leaf, [sum(end - start for start, end in own) for own in layout.spans]) if whole else spread

    def side(name: str | ViewSpec, weights: list[Tensor] | None) -> ResponseLogps:
        paths = slices[name]
        mask = spread.mask(paths, policy.logps.device)
        padded = pad_sequence(weights, batch_first=True).to(mask.device) if weights is not None else None
        if padded is not None and padded.shape != mask.shape:
            raise ValueError(f"weights are {tuple(padded.shape)}, responses {tuple(mask.shape)}: one weight per token")
        logps = spread(policy.logps, paths)
        assert logps is not None
        more = {SECOND: spread(second.logps, paths)} if second is not None and name in ("chosen", "rejected") else {}
        return ResponseLogps(
            logps,
            spread(reference.logps, paths) if reference is not None else None,
            mask,
            padded,
            spread(policy.top1, paths),
            states(policy.hidden, paths),
            states(reference.hidden, paths) if reference is not None else None,
            states.mask(paths, mask.device) if whole else None,
            more={key: value for key, value in more.items() if value is not None},
        )

    slices = path_slices(batch)
    views = {spec: side(spec, view.weights) for spec, view in batch.views.items()}
    chosen, rejected = side("chosen", batch.chosen_weights), side("rejected", batch.rejected_weights)
    return PairLogps(chosen, rejected, views, scores=batch.scores)


def with_cached_reference(pairs: PairLogps, batch: PairBatch) -> PairLogps:
    """The pairs with the reference log-probs that came with the batch."""
    chosen, rejected = _cached(pairs, batch, batch.reference)
    return replace(
        pairs, chosen=replace(pairs.chosen, reference=chosen), rejected=replace(pairs.rejected, reference=rejected)
    )


def with_cached_second_reference(pairs: PairLogps, batch: PairBatch) -> PairLogps:
    """The pairs with the log-probs of a second reference that came with the batch."""
    found = zip((pairs.chosen, pairs.rejected), _cached(pairs, batch, batch.second_reference), strict=True)
    chosen, rejected = (replace(side, more={**side.more, SECOND: logps}) for side, logps in found)
    return replace(pairs, chosen=chosen, rejected=rejected)


def _cached(pairs: PairLogps, batch: PairBatch, kept: Sequence[tuple[Tensor, Tensor]] | None) -> tuple[Tensor, Tensor]:
    """The kept log-probs of chosen and rejected, [b, t] each."""
    if kept is None or len(kept) != len(batch):
        raise ValueError("reference='cached' needs reference log-probs for every pair of the batch")
    if batch.views:
        raise ValueError("reference='cached' knows chosen and rejected only, and this batch has views")

    def side(response: ResponseLogps, ids: Sequence[Tensor], logps: Sequence[Tensor]) -> Tensor:
        if [len(values) for values in logps] != [len(own) for own in ids]:
            raise ValueError("cached reference log-probs belong to other tokens: their number differs")
        return pad_sequence(list(logps), batch_first=True).to(response.policy)

    chosen, rejected = zip(*kept, strict=True)
    return side(pairs.chosen, batch.chosen_ids, chosen), side(pairs.rejected, batch.rejected_ids, rejected)
