"""What a benchmark counted, image by image: the one form in which results reach the statistics and the scorecard.

A benchmark never computes intervals. It says what it counted on each image, and which formulas turn sums of these
counts into metrics; intervals, before/after tests and tables then come for every benchmark from the same code.

Shapes: g images, k counted quantities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmpo.eval.statistics.statistics import Array, Statistic


@dataclass(frozen=True)
class Metric:
    """A formula over summed counts [..., k] -> [...].

    `better` says which direction is good, `percent` that the table shows the fraction as a percentage, `independent`
    that the metric is a share of images, at most one count an image (so Wilson's interval holds), given as the pair
    of count columns (successes, trials). `highest` is the largest value of a bounded metric that is no percentage.
    """

    name: str
    formula: Statistic
    better: Literal["higher", "lower", "neither"]
    percent: bool = True
    independent: tuple[int, int] | None = None
    denominator: Statistic | None = None
    highest: float | None = None


@dataclass(frozen=True)
class Ranking:
    """How the model ranked n yes/no questions, whatever its threshold: `p_yes`, the right answers, and the row of each
    question's image in the tally. Its AUROC says how well yes and no questions are told apart, free of any bias to yes.
    """

    p_yes: Array
    positive: Array
    image_of: Array


@dataclass(frozen=True)
class Tally:
    """Counts [g, k] of one benchmark (or one split of it) over `images`, with its metrics.

    `outcomes` maps every question (or caption) to right/wrong where the benchmark has such a thing; before and after
    are paired by its keys, and the McNemar test belongs to the metric named `paired_metric`. `categories` puts the
    questions of `outcomes` into categories to be compared one by one.
    """

    images: tuple[str, ...]
    counts: Array
    metrics: tuple[Metric, ...]
    outcomes: Mapping[Any, bool] = field(default_factory=dict)
    paired_metric: str | None = None
    categories: Mapping[Any, str] = field(default_factory=dict)
    ranking: Ranking | None = None

    @property
    def values(self) -> dict[str, float]:
        """Every metric over all images."""
        totals = self.counts.sum(0)
        return {metric.name: float(metric.formula(totals)) for metric in self.metrics}

    @property
    def undefined(self) -> tuple[str, ...]:
        """Names of the metrics whose denominator is 0; their value is given as 0."""
        totals = self.counts.sum(0)
        return tuple(m.name for m in self.metrics if m.denominator is not None and float(m.denominator(totals)) == 0)


def by_image(images: Sequence[str], rows: Array) -> tuple[tuple[str, ...], Array]:
    """Sum `rows` [n, k] that belong to the same image: the distinct images in order of first appearance, and their
    sums [g, k].
    """
    position: dict[str, int] = {}
    index = [position.setdefault(image, len(position)) for image in images]
    sums = np.zeros((len(position), rows.shape[1]), dtype=np.int64)
    np.add.at(sums, index, rows)
    return tuple(position), sums


def ranking(
    images: Sequence[str], image: Sequence[str], p_yes: Sequence[float | None], positive: Sequence[bool]
) -> Ranking | None:
    """The ranking of n questions about `image` [n], for a tally over `images` [g]; None where a probability is not
    known.
    """
    if not p_yes or any(value is None for value in p_yes):
        return None
    position = {name: row for row, name in enumerate(images)}
    index = np.array([position[name] for name in image])
    return Ranking(np.array(p_yes, dtype=float), np.array(positive, dtype=bool), index)


def aligned(tally: Tally, images: Sequence[str]) -> Array:
    """The counts [len(images), k] of `tally` in the order of `images`; zeros for images it does not have."""
    position = {image: row for row, image in enumerate(tally.images)}
    counts = np.zeros((len(images), tally.counts.shape[1]), dtype=tally.counts.dtype)
    for row, image in enumerate(images):
        if image in position:
            counts[row] = tally.counts[position[image]]
    return counts
