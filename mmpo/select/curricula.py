"""Selectors that say in which order pairs are learnt: easy ones first. They drop none."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mmpo.errors import UserError
from mmpo.select.margins import Numbers, Places
from mmpo.select.registry import Choice, ScoreGap, SelectorSettings, selector
from mmpo.select.table import PairTable

MOST_BUCKETS = 50


@selector("curry")
class Curry(SelectorSettings):
    """Ranked pairs of each prompt from easy to hard, stage by stage: Curry-DPO (arXiv 2403.07230).

    The pair of a prompt with the largest gap is easy, the one with the smallest hard: of four ranked responses
    (1, 4), (1, 3) and (1, 2). More pairs than stages are dealt evenly. The paper's reference is the model at the end of
    the stage before: train.reference (docs/select.md).
    """

    orders: ClassVar[bool] = True

    gap: ScoreGap = Field(default_factory=ScoreGap, description="Scores or ranks of the responses.")
    stages: int = Field(default=3, ge=1, le=MOST_BUCKETS, description="How many stages.")

    def reads(self) -> tuple[str, ...]:
        return (*self.gap.columns(), "prompt")

    def gaps(self) -> tuple[ScoreGap, ...]:
        return (self.gap,)

    def choose(self, table: PairTable, seed: int) -> Choice:
        assert table.prompts is not None
        return Choice(stages=curry_stages(self.gap.of(table), table.prompts, self.stages))


@selector("rank_difference")
class RankDifference(SelectorSettings):
    """Pairs in buckets by the gap of their scores or ranks, large gaps first; more buckets join as training goes on.

    With `add`, a stage mixes the pairs of its own bucket and of those before it, each pair once; without, a stage is a
    bucket.
    """

    orders: ClassVar[bool] = True

    gap: ScoreGap = Field(default_factory=ScoreGap, description="Scores or ranks of the responses.")
    buckets: int | None = Field(
        default=None, ge=1, le=MOST_BUCKETS, description="As many, equally full. Left out: one for each gap there is."
    )
    add: bool = Field(default=True, description="Buckets that came go on to be drawn from.")

    def reads(self) -> tuple[str, ...]:
        return self.gap.columns()

    def gaps(self) -> tuple[ScoreGap, ...]:
        return (self.gap,)

    def choose(self, table: PairTable, seed: int) -> Choice:
        bucket = gap_buckets(self.gap.of(table), self.buckets)
        if self.add:
            bucket = added(bucket, np.random.default_rng(seed))
        return Choice(stages=bucket)


def curry_stages(gaps: Numbers, prompts: Places, stages: int) -> Places:
    """[n], 0 for the easiest. The r-th largest gap (from 0) of a prompt with k pairs is in stage r where k <= stages,
    else in stage floor(r * stages / k)."""
    found = np.zeros(len(gaps), dtype=np.int64)
    if not len(gaps):
        return found
    _, group, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    order = np.lexsort((-gaps, group))
    starts = np.cumsum(counts) - counts
    place = np.arange(len(gaps)) - np.repeat(starts, counts)
    size = np.repeat(counts, counts)
    found[order] = np.where(size <= stages, place, place * stages // size)
    return found


def gap_buckets(gaps: Numbers, buckets: int | None) -> Places:
    """[n], 0 for the largest gaps; equal gaps are in one bucket. Raises `UserError` for too many different gaps."""
    values, number, counts = np.unique(-gaps, return_inverse=True, return_counts=True)
    if buckets is None:
        if len(values) > MOST_BUCKETS:
            raise UserError(
                f"rank_difference: {len(values):,} different gaps, each a bucket of its own", hint="say buckets: 4"
            )
        return number.astype(np.int64)
    before = np.cumsum(counts) - counts
    return (before * buckets // max(len(gaps), 1)).astype(np.int64)[number]


def added(bucket: Places, random: np.random.Generator) -> Places:
    """[n], the stage of each pair where the pairs of bucket b are dealt evenly, at random, to the stages b and on."""
    stage = np.zeros(len(bucket), dtype=np.int64)
    last = int(bucket.max(initial=0))
    for number in range(last + 1):
        places = random.permutation(np.flatnonzero(bucket == number))
        stage[places] = number + np.arange(len(places)) % (last + 1 - number)
    return stage
