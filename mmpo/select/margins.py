"""Margins and probabilities of pairs: pure functions of arrays. n pairs; margins are gaps of scores or nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Places: TypeAlias = npt.NDArray[np.int64]


def kept_number(n: int, keep: float) -> int:
    """How many of `n` are kept: a share up to 1 (rounded down, but at least one), above 1 that many."""
    return min(n, int(keep)) if keep > 1 else min(n, max(1, math.floor(n * keep + 1e-9)))


def best(values: Numbers, keep: float) -> Mask:
    """[n], the greatest of `values`; of equal ones the first."""
    chosen = np.zeros(len(values), dtype=np.bool_)
    chosen[np.argsort(-values, kind="stable")[: kept_number(len(values), keep)]] = True
    return chosen


def tail(margins: Numbers, count: int) -> float:
    """M2 of Less is More (arXiv 2502.14560): the smallest margin with fewer than `count` above it, or with fewer above
    it than the greatest is away. Found going down from the greatest as long as one of the two holds; that one itself,
    where it holds down to the last of fewer than `count` margins, for all of them would be outliers then."""
    falling, counts = np.unique(margins, return_counts=True)
    falling, counts = falling[::-1], counts[::-1]
    above = np.cumsum(counts) - counts
    in_tail = (above < count) | (above < falling[0] - falling)
    end = len(falling) if in_tail.all() else int(np.argmin(in_tail))
    return float(falling[0] if len(margins) < count else falling[end - 1])


def probability(margins: Numbers, low: float, high: float) -> Numbers:
    """P(m) = (clip(m, low, high) - low) / (high - low), [n]. Needs low < high."""
    return (np.clip(margins, low, high) - low) / (high - low)


def fused(probabilities: Sequence[Numbers]) -> Numbers:
    """prod P / (prod P + prod (1 - P)) over the sources, [n]; 0.5 where one is sure and another sure of the opposite.

    Dual-margin selection (arXiv 2502.14560); with more than two sources its later revision.
    """
    yes, no = (np.prod(np.stack(list(side)), axis=0) for side in (probabilities, [1 - p for p in probabilities]))
    total = yes + no
    return np.where(total > 0, yes / np.where(total > 0, total, 1.0), 0.5)


def drawn_keys(gaps: Numbers, random: np.random.Generator) -> Numbers:
    """[n] keys whose k greatest are a draw of k without replacement with the weights exp(-((D - M) / S)^2 / 2), M and S
    mean and unbiased deviation of the gaps D; all weigh the same where S is 0. The filter of beta-DPO (arXiv
    2407.08639), drawn by Gumbel keys."""
    deviation = float(np.std(gaps, ddof=1)) if len(gaps) > 1 else 0.0
    logs = -(((gaps - gaps.mean()) / deviation) ** 2) / 2 if deviation > 0 else np.zeros(len(gaps))
    return logs + random.gumbel(size=len(gaps))
