"""The share of the attention onto images that falls on the right picture (MIA-DPO, eq. 4: R = A_target / A_sum).

Every variant is a pair of sums over image tokens, so a ratio can be judged again later. Legend: c image tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmpo.data.layouts.geometry import Box, Layout
from mmpo.data.layouts.token_grid import TokenMap


@dataclass(frozen=True)
class AttentionShare:
    """`target` of `all` attention; `uniform` is the ratio of attention that is the same on every token."""

    target: float
    all: float
    uniform: float

    @property
    def ratio(self) -> float:
        return self.target / self.all if self.all else 0.0

    def as_json(self) -> dict[str, float]:
        return {**asdict(self), "ratio": self.ratio}


def sequence_parts(attention: Sequence[np.ndarray], index: int) -> dict[str, AttentionShare]:
    """Images one after another: `attention` [c] of each (real tokens only), `index` (from 0) the target. `mean`
    compares attention per token, `sum` all of it; they differ where images have different numbers of tokens."""
    means = [float(values.mean()) for values in attention]
    sums = [float(values.sum()) for values in attention]
    sizes = [len(values) for values in attention]
    return {
        "mean": AttentionShare(means[index], sum(means), 1 / len(means)),
        "sum": AttentionShare(sums[index], sum(sums), sizes[index] / sum(sizes)),
    }


def region_parts(
    layout: Layout, attention: np.ndarray, places: TokenMap, regions: Sequence[Box], index: int
) -> dict[str, AttentionShare]:
    """One picture that holds others: `attention` [c], `regions` their boxes, `index` (from 0) the target's.

    `blocks` as the released code, `exact` by overlap with the target over the whole picture, `only_regions` over the
    pictures in it (for an inner picture: over all of the outer one, padding left out)."""
    real = places.real
    block = places.block(len(regions), index) if layout == "collage" else places.middle()
    weights = places.weights(regions[index])
    whole = np.clip(sum(places.weights(box) for box in regions), 0, 1)

    def part(target: np.ndarray, all: np.ndarray) -> AttentionShare:
        return AttentionShare(
            float(target @ attention), float(all @ attention), float(target.sum() / all.sum()) if all.sum() else 0.0
        )

    return {
        "blocks": part(block, real.astype(float)),
        "exact": part(weights, real.astype(float)),
        "only_regions": part(weights, whole),
    }


def chosen_part(layout: str, measure: str, regions: str) -> str:
    """The name of the variant that settings ask for."""
    return measure if layout == "sequence" else regions


def packed(values: np.ndarray) -> dict[str, Any]:
    """A map as JSON: half-precision numbers relative to its maximum, in base64."""
    top = float(values.max()) if values.size else 0.0
    scaled = (values / top if top else values).astype("<f2")
    return {"max": top, "data": base64.b64encode(scaled.tobytes()).decode()}


def unpacked(stored: dict[str, Any]) -> np.ndarray:
    """The inverse of `packed`, to half precision."""
    return np.frombuffer(base64.b64decode(stored["data"]), dtype="<f2").astype(float) * float(stored["max"])
