"""From what a benchmark counted to the rows of a scorecard: intervals, and before against after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.statistics.rows import Category, Change, Estimate, MetricRow
from mmpo.eval.statistics.tally import Metric, Ranking, Tally, aligned
from mmpo.statistics import (
    Array,
    auroc,
    benjamini_hochberg,
    difference,
    mcnemar,
    percentile_interval,
    resampled_auroc,
    resampled_sums,
    wilson,
)


@dataclass(frozen=True)
class Bootstrap:
    """The number of times that images are resampled, and the seed."""

    samples: int
    seed: int


def compare(
    benchmark: str, split: str | None, before: Tally | None, after: Tally, bootstrap: Bootstrap
) -> list[MetricRow]:
    """The rows of one benchmark (or split): every metric with interval, and where there is a `before` the paired
    difference and its test.

    Raises UserError where before and after are not of the same images and questions.
    """
    counts = [after.counts]
    if before is not None:
        if set(before.images) != set(after.images) or before.outcomes.keys() != after.outcomes.keys():
            raise UserError(
                f"{benchmark}: before and after were not asked the same questions", hint="score both on the same files"
            )
        counts = [aligned(before, after.images), after.counts]
    sums = resampled_sums(np.concatenate(counts, axis=1), samples=bootstrap.samples, seed=bootstrap.seed)
    parts = np.split(sums, len(counts), axis=1)
    rows = []
    for metric in after.metrics:
        change = None
        if before is not None:
            observed = float(metric.formula(counts[1].sum(0)) - metric.formula(counts[0].sum(0)))
            change = _change(metric, before, after, observed, metric.formula(parts[1]) - metric.formula(parts[0]))
        rows.append(
            MetricRow(
                benchmark=benchmark,
                split=split,
                metric=metric.name,
                label=metric.label,
                meaning=metric.meaning,
                headline=metric.headline,
                sentence=metric.sentence,
                better=metric.better,
                percent=metric.percent,
                before=None if before is None else _estimated(before, metric, parts[0]),
                after=_estimated(after, metric, parts[-1]),
                change=change,
            )
        )
    return rows + _ranked(benchmark, split, before, after, bootstrap)


def intervals(
    tally: Tally, bootstrap: Bootstrap = Bootstrap(samples=2_000, seed=0), *, percent: bool = False
) -> dict[str, list[float]]:
    """[low, high] of 95% of every metric that is defined; `percent`: in percent where the metric is a percentage."""
    found: dict[str, list[float]] = {}
    for row in compare("", None, None, tally, bootstrap):
        if row.after.defined:
            scale = 100.0 if percent and row.percent else 1.0
            found[row.metric] = [scale * row.after.low, scale * row.after.high]
    return found


def _ranked(
    benchmark: str, split: str | None, before: Tally | None, after: Tally, bootstrap: Bootstrap
) -> list[MetricRow]:
    """The row of the AUROC, where the probabilities are known."""
    if after.ranking is None or (before is not None and before.ranking is None):
        return []
    images = len(after.images)

    def estimate(ranking: Ranking, image_of: Array) -> tuple[float, Array, Estimate]:
        value = float(auroc(ranking.p_yes, ranking.positive))
        values = resampled_auroc(
            ranking.p_yes, ranking.positive, image_of, images, samples=bootstrap.samples, seed=bootstrap.seed
        )
        interval = percentile_interval(values, images=images)
        defined = 0 < ranking.positive.sum() < len(ranking.positive)
        return value, values, Estimate(value=value, defined=bool(defined), **vars(interval))

    value, values, shown = estimate(after.ranking, after.ranking.image_of)
    shown_before, change = None, None
    if before is not None and before.ranking is not None:
        position = {image: row for row, image in enumerate(after.images)}
        place = np.array([position[image] for image in before.images])
        value_before, values_before, shown_before = estimate(before.ranking, place[before.ranking.image_of])
        found = difference(value - value_before, values - values_before)
        change = Change(test="bootstrap", **vars(found))
    row = MetricRow(
        benchmark=benchmark,
        split=split,
        metric="AUROC",
        label="AUROC of P(yes)",
        meaning="how well the probability of yes tells yes questions from no questions, whatever the bias to yes",
        better="higher",
        percent=True,
        before=shown_before,
        after=shown,
        change=change,
    )
    return [row]


def compare_categories(benchmark: str, before: Tally | None, after: Tally) -> list[Category]:
    """Every category of single answers, with Wilson's intervals, McNemar's exact tests and these adjusted for their
    number.
    """
    members: dict[str, list[object]] = {}
    for key, name in after.categories.items():
        members.setdefault(name, []).append(key)
    rows = []
    for name, keys in sorted(members.items()):
        right = [after.outcomes[key] for key in keys]
        tested: dict[str, object] = {}
        if before is not None:
            was_right = [before.outcomes[key] for key in keys]
            tested = {"before": _share(was_right), **vars(mcnemar(was_right, right))}
        values = {"benchmark": benchmark, "name": name, "questions": len(keys), "after": _share(right)}
        rows.append(Category.model_validate({"before": None, **values, **tested}))
    if before is None:
        return rows
    q = benjamini_hochberg([row.p for row in rows if row.p is not None])
    return [row.model_copy(update={"q": value}) for row, value in zip(rows, q, strict=True)]


def adjusted(rows: Sequence[MetricRow], totals: Iterable[str | None] = ()) -> list[MetricRow]:
    """The rows of one benchmark, with `q` for each metric that several splits or categories have. `totals` are splits
    that sum up others and are left alone.
    """
    left_alone = set(totals)
    found = list(rows)
    for metric in dict.fromkeys(row.metric for row in rows):
        tests = {
            place: row.change
            for place, row in enumerate(rows)
            if row.metric == metric and row.change is not None
            if row.better != "neither" and row.split not in left_alone
        }
        if len(tests) < 2:
            continue
        q = benjamini_hochberg([change.p for change in tests.values()])
        for (place, change), value in zip(tests.items(), q, strict=True):
            found[place] = rows[place].model_copy(update={"change": change.model_copy(update={"q": value})})
    return found


def _share(right: Sequence[bool]) -> Estimate:
    return Estimate(value=sum(right) / len(right), **vars(wilson(sum(right), len(right))))


def _estimated(tally: Tally, metric: Metric, sums: Array) -> Estimate:
    totals = tally.counts.sum(0)
    if metric.independent is not None:
        successes, trials = (int(totals[column]) for column in metric.independent)
        interval = wilson(successes, trials)
    else:
        highest = 1.0 if metric.percent else metric.highest
        images = len(tally.images)
        if metric.denominator is not None:  # images without anything to count say nothing about a share
            images = max(1, int((metric.denominator(tally.counts) > 0).sum()))
        interval = percentile_interval(metric.formula(sums), images=images, highest=highest)
    defined = metric.name not in tally.undefined
    return Estimate(value=float(metric.formula(totals)), defined=defined, **vars(interval))


def _change(metric: Metric, before: Tally, after: Tally, observed: float, resampled: Array) -> Change:
    found = difference(observed, resampled)
    if metric.name != after.paired_metric:
        return Change(test="bootstrap", **vars(found))
    keys = list(after.outcomes)
    paired = mcnemar([before.outcomes[key] for key in keys], [after.outcomes[key] for key in keys])
    return Change(test="mcnemar", **(vars(found) | vars(paired)))
