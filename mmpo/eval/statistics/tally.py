"""The counts of a benchmark, image by image: the one form in which results reach the statistics and the scorecard.

A benchmark never computes intervals. It says what it counted on each image, and which formulas turn sums of these
counts into metrics; intervals, before/after tests and tables then come for every benchmark from the same code.

Shapes: g images, k counted quantities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmpo.statistics import Array, Statistic, ratio

Direction = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Caution:
    """A reader is warned where a metric moves by more than `limit` (a share of its value before, where `relative`);
    `{moved}` in the text becomes `from A to B`.
    """

    limit: float
    text: str
    relative: bool = False


YES_RATIO: Mapping[str, Any] = {
    "label": "yes ratio",
    "meaning": "share of answers that are yes",
    "caution": Caution(
        0.05, "the share of yes answers moved {moved}; part of any change is a changed bias, look at accuracy too"
    ),
}
"""Label, meaning and caution of a share of yes answers, whatever the benchmark."""


@dataclass(frozen=True)
class Metric:
    """A formula over summed counts [..., k] -> [...].

    `better` says which direction is good, `percent` that the table shows the fraction as a percentage, `independent`
    that the metric is a share of images, at most one count an image (so Wilson's interval holds), given as the pair
    of count columns (successes, trials). `highest` is the largest value of a bounded metric that is no percentage.

    The rest is for its readers: `meaning` in plain words, `label` where the name isn't shown as it is. The metric with
    the highest `headline` above 0 stands for its benchmark; one with a `sentence` gets a line of its own there, which
    names its parts, with `{}` for the value. `watched`: a reader is told where the images would show only a large
    change.
    """

    name: str
    formula: Statistic
    better: Direction
    meaning: str = ""
    percent: bool = True
    independent: tuple[int, int] | None = None
    denominator: Statistic | None = None
    highest: float | None = None
    label: str = ""
    headline: int = 0
    sentence: str = ""
    watched: bool = False
    caution: Caution | None = None


def share(
    name: str, above: int, below: int, better: Direction, meaning: str = "", *, independent: bool = False, **more: Any
) -> Metric:
    """The sum of column `above` divided by that of `below`, undefined where this is 0. `more`: fields of `Metric`."""

    def formula(counts: Array) -> Array:
        return ratio(counts[..., above], counts[..., below])

    def denominator(counts: Array) -> Array:
        column: Array = counts[..., below]
        return column

    trials = (above, below) if independent else None
    return Metric(name, formula, better, meaning, independent=trials, denominator=denominator, **more)


@dataclass(frozen=True)
class Ranking:
    """The model's ranking of n yes/no questions, without a threshold: `p_yes`, the right answers, and the row of each
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

    def shown(self, *, percent: bool = False) -> dict[str, float | None]:
        """As `values`, None where undefined; `percent`: in percent where the metric is a percentage."""
        scale = {metric.name: 100 if percent and metric.percent else 1 for metric in self.metrics}
        undefined = self.undefined
        return {name: None if name in undefined else scale[name] * value for name, value in self.values.items()}

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
