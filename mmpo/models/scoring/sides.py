"""From the flat log-probs of scored segments to the sides of pairs.

Shapes: b pairs, t scored tokens of a response (padded), n all scored tokens, h hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.segment_logps import SegmentLogps
from mmpo.models.tree.layout import TreeBatch
from mmpo.types import PairLogps, ResponseLogps


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
        own = torch.tensor([self.lengths[number] for number in self.leaf[paths]], device=device)
        return torch.arange(int(own.max()), device=device) < own[:, None]


def pair_logps(
    batch: PairBatch, leaf: Sequence[int], layout: TreeBatch, policy: SegmentLogps, reference: SegmentLogps | None
) -> PairLogps:
    """The log-probs [n] of the scored segments as sides [b, t]; `leaf` names the segments of the batch's paths."""
    spread = Spread(leaf, layout.lengths)
    whole = policy.hidden is not None and len(policy.hidden) != len(policy.logps)  # of the sequence, not the response
    states = Spread(leaf, [sum(end - start for start, end in own) for own in layout.spans]) if whole else spread

    def side(paths: slice, weights: list[Tensor] | None) -> ResponseLogps:
        mask = spread.mask(paths, policy.logps.device)
        padded = pad_sequence(weights, batch_first=True).to(mask.device) if weights is not None else None
        if padded is not None and padded.shape != mask.shape:
            raise ValueError(f"weights are {tuple(padded.shape)}, responses {tuple(mask.shape)}: one weight per token")
        logps = spread(policy.logps, paths)
        assert logps is not None
        return ResponseLogps(
            logps,
            spread(reference.logps, paths) if reference is not None else None,
            mask,
            padded,
            spread(policy.top1, paths),
            states(policy.hidden, paths),
            states(reference.hidden, paths) if reference is not None else None,
            states.mask(paths, mask.device) if whole else None,
        )

    pairs = 2 * len(batch)
    views = {}
    for number, (spec, view) in enumerate(batch.views.items()):
        first = pairs + number * len(batch)
        views[spec] = side(slice(first, first + len(batch)), view.weights)
    return PairLogps(
        side(slice(0, pairs, 2), batch.chosen_weights),
        side(slice(1, pairs, 2), batch.rejected_weights),
        views,
        scores=batch.scores,
    )


def with_cached_reference(pairs: PairLogps, batch: PairBatch) -> PairLogps:
    """The pairs with the reference log-probs that came with the batch."""
    if batch.reference is None or len(batch.reference) != len(batch):
        raise ValueError("reference='cached' needs reference log-probs for every pair of the batch")

    def side(response: ResponseLogps, logps: Sequence[Tensor]) -> ResponseLogps:
        if [len(values) for values in logps] != response.lengths.tolist():
            raise ValueError("cached reference log-probs belong to other tokens: their number differs")
        return replace(response, reference=pad_sequence(list(logps), batch_first=True).to(response.policy))

    if batch.views:
        raise ValueError("reference='cached' knows chosen and rejected only, and this batch has views")
    chosen, rejected = zip(*batch.reference, strict=True)
    return replace(pairs, chosen=side(pairs.chosen, chosen), rejected=side(pairs.rejected, rejected))
