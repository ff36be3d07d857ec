"""Uncertainty of numbers: Wilson intervals, bootstraps that resample whole images, exact McNemar tests, many tests
at once.

Questions about one image are not independent (a picture that confuses a model confuses it several times), so
everything that pools questions or mentions is resampled by image. All functions are pure and deterministic from their
seed.

Shapes: g images, k counted quantities, r resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# scipy.stats takes half a second to import, and settings files import this module: it is imported where it is used.

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
"""A metric as a function of summed counts: `[..., k] -> [...]`."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A 95% interval and how it was made (`wilson` or `bootstrap`)."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """After minus before on the same images, from one paired bootstrap.

    `detectable` is the smallest true difference that a run of this size would find in four of five repetitions
    (two-sided 5% level); None where the resamples do not vary, so that nothing can be said.
    """

    value: float
    low: float
    high: float
    p: float
    detectable: float | None


@dataclass(frozen=True)
class McNemar:
    """Paired right/wrong answers: `fixed` were wrong before and are right after, `broken` the reverse, `p` the exact
    two-sided test.
    """

    fixed: int
    broken: int
    p: float


def ratio(numerator: Array, denominator: Array) -> Array:
    """Elementwise quotient, 0 where the denominator is 0 (whoever calls says which values were undefined)."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def wilson(successes: float, trials: int) -> Interval:
    """Wilson's score interval of a proportion of independent trials (Wilson 1927); never empty, also at 0% and 100%.

    Raises ValueError where `trials` is 0 or `successes` lies outside 0..trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"wilson needs 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    from scipy.stats import binomtest

    bounds = binomtest(round(successes), trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(bounds.low), float(bounds.high), "wilson")


def wilson_low(successes: Array, trials: Array) -> Array:
    """The lower ends of `wilson` for many proportions: [n] and [n] -> [n], 0 where there are no trials."""
    n, square = np.asarray(trials, float), 1.959963984540054**2
    share, each = ratio(successes, n), ratio(np.ones_like(n), n)
    root = np.sqrt(square * (share * (1 - share) + square * each / 4) * each)
    return np.where(n > 0, np.maximum((share + square * each / 2 - root) / (1 + square * each), 0.0), 0.0)


def resamples(images: int, *, samples: int, seed: int) -> Iterator[tuple[int, Array]]:
    """Resamples of `images` images with replacement, in blocks: (number of the first, how often each image was drawn
    [block, g]).

    They depend on the arguments only, so metrics computed from different counts of the same images are paired.
    """
    if images == 0:
        raise ValueError("a bootstrap needs at least one image")
    rng = np.random.default_rng(seed)
    step = max(1, 1_000_000 // images)  # bounds the memory of one block to about 16 MB
    for start in range(0, samples, step):
        block = min(step, samples - start)
        drawn = rng.integers(images, size=(block, images)) + images * np.arange(block)[:, None]
        times = np.bincount(drawn.ravel(), minlength=block * images).reshape(block, images)
        yield start, times.astype(np.float64)


def resampled_sums(counts: Array, *, samples: int, seed: int) -> Array:
    """Sums of `counts` [g, k] over `samples` resamples of whole images: [r, k]."""
    counts = np.asarray(counts, dtype=np.float64)
    sums = np.empty((samples, counts.shape[1]))
    for start, times in resamples(len(counts), samples=samples, seed=seed):
        sums[start : start + len(times)] = times @ counts
    return sums


def auroc(scores: Array, positive: Array, weights: Array | None = None) -> Array:
    """Area under the ROC curve: the chance that a positive has a higher score than a negative, ties counting half.

    `scores` and `positive` [n]; `weights` [..., n] says how often each item counts (once, where None). 0.5 where one of
    the classes is missing.
    """
    order = np.argsort(scores, kind="stable")
    scores, positive = np.asarray(scores, float)[order], np.asarray(positive, bool)[order]
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)[..., order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    positives = np.add.reduceat(weights * positive, starts, axis=-1)
    negatives = np.add.reduceat(weights * ~positive, starts, axis=-1)
    below = negatives.cumsum(-1) - negatives / 2
    pairs = positives.sum(-1) * negatives.sum(-1)
    return np.where(pairs > 0, ratio((positives * below).sum(-1), pairs), 0.5)


def resampled_auroc(scores: Array, positive: Array, image_of: Array, images: int, *, samples: int, seed: int) -> Array:
    """`auroc` over the resamples of whole images: [r]. `image_of` [n] is the image (0 … images-1) of each item."""
    values = np.empty(samples)
    step = max(1, 2_000_000 // len(scores))
    for start, times in resamples(images, samples=samples, seed=seed):
        for first in range(0, len(times), step):
            block = times[first : first + step]
            values[start + first : start + first + len(block)] = auroc(scores, positive, block[:, image_of])
    return values


def bootstrap_interval(counts: Array, statistic: Statistic, *, samples: int, seed: int) -> Interval:
    """Percentile interval of `statistic` over resamples of the images of `counts` [g, k]; see `percentile_interval`."""
    return percentile_interval(statistic(resampled_sums(counts, samples=samples, seed=seed)), images=len(counts))


def percentile_interval(values: Array, *, images: int, highest: float | None = 1.0) -> Interval:
    """The interval that holds the middle 95% of resampled `values` [r], which lie between 0 and `highest` (None: no
    bound is known).

    Where every resample gives the same 0 or `highest` (no mention was hallucinated, all answers were right) a bootstrap
    would claim certainty; Wilson's interval with the images as trials stands in, which errs on the wide side.
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high and highest is not None and low in (0.0, highest):
        share = wilson(images if low else 0, images)
        return Interval(highest * share.low, highest * share.high, share.method)
    return Interval(float(low), float(high), "bootstrap")


def paired_difference(before: Array, after: Array, statistic: Statistic, *, samples: int, seed: int) -> Difference:
    """`statistic(after) - statistic(before)` where row i of both [g, k] is the same image; a resample draws the image
    with both its rows.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"paired counts need one shape, got {before.shape} and {after.shape}")
    sums = resampled_sums(np.concatenate([before, after], axis=1), samples=samples, seed=seed)
    columns = before.shape[1]
    observed = float(statistic(after.sum(0)) - statistic(before.sum(0)))
    return difference(observed, statistic(sums[:, columns:]) - statistic(sums[:, :columns]))


def difference(observed: float, resampled: Array) -> Difference:
    """Interval and test of an observed difference from its resampled values [r].

    p is the two-sided bootstrap p-value: twice the smaller share of resamples on either side of zero, counting the
    observed data as one resample (Davison and Hinkley 1997, section 4.2), so it is never 0.
    """
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    error = float(resampled.std())
    return Difference(
        value=observed,
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (tail + 1) / (len(resampled) + 1)),
        detectable=minimum_detectable_difference(error) if error > 1e-12 else None,
    )


def minimum_detectable_difference(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test at level `alpha` finds with probability `power`, given the standard
    error of the difference.
    """
    from scipy.stats import norm

    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * standard_error)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> McNemar:
    """McNemar's exact test (McNemar 1947) on paired right/wrong answers: a binomial test of the changed ones against
    one half.
    """
    if len(before) != len(after):
        raise ValueError(f"paired answers need equal lengths, got {len(before)} and {len(after)}")
    from scipy.stats import binomtest

    fixed = sum(1 for b, a in zip(before, after, strict=True) if a and not b)
    broken = sum(1 for b, a in zip(before, after, strict=True) if b and not a)
    p = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return McNemar(fixed, broken, p)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p-values of many tests, adjusted so that calling those below 5% different is wrong for at most one in twenty of
    them, in expectation (Benjamini and Hochberg 1995).
    """
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p)] if len(p) else []
