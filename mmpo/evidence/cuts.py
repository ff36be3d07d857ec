"""Where a source's number becomes present, absent or uncertain. Pure functions of numbers; no torch here.

With controls (claims whose truth is known) the cuts are the widest at which a lower bound of precision still holds, and
probabilities are Platt's (Platt 1999, with the targets and the fit of Lin, Lin and Weng 2007). Without them a cut is
found where the numbers fall into two groups (Otsu 1979), and nowhere if they don't.

Shapes: n claims; `z` [n] numbers, `truth` [n] present or not, `picture_of` [n] the picture of each, 0 … g - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmpo.evidence.records import Opinion, Presence
from mmpo.statistics import Array, Interval, auroc, percentile_interval, resampled_auroc, resamples, wilson_low

LEAST_CLAIMS = 30
"""Claims on one side of a cut that a bound of precision rests on."""
LEAST_AUROC = 0.7
LEAST_BETWEEN = 0.77
"""Least share of variance between two groups: 0.64 is that of a Gaussian, 0.75 of a uniform distribution."""
LEAST_GROUP = 0.05
BAND = 0.1
"""Half the width of the uncertain band around Otsu's cut, in distances of the group means."""
SAMPLES = 1000
BINS = 10


@dataclass(frozen=True)
class VerdictCuts:
    """present where z >= `present_at`, absent where z < `absent_below`, else uncertain; None: never that verdict. `off`
    says why a source gives no verdict at all."""

    present_at: float | None = None
    absent_below: float | None = None
    off: str = ""

    def verdict(self, z: float) -> Presence:
        if self.present_at is not None and z >= self.present_at:
            return "present"
        return "absent" if self.absent_below is not None and z < self.absent_below else "uncertain"


AFFIRMED = VerdictCuts(math.nextafter(0, 1), math.nextafter(0, 1))
"""Yes likelier than no is present, all else absent, a tie too: RLAIF-V's rule for log odds."""


@dataclass(frozen=True)
class Platt:
    """P(present | z) = 1 / (1 + exp(-(slope z + offset)))."""

    slope: float
    offset: float

    def present(self, z: Array | float) -> Array:
        return 1 / (1 + np.exp(-np.clip(self.slope * np.asarray(z, float) + self.offset, -700, 700)))


@dataclass(frozen=True)
class ReliabilityBin:
    """Claims of similar probability: their number, mean probability of being present, and share that is."""

    claims: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """A source on the controls. `ece` and `bins` are of probabilities fitted on other pictures (five folds)."""

    claims: int
    present: int
    pictures: int
    auroc: float
    auroc_low: float
    auroc_high: float
    ece: float | None
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class SourceCuts:
    """All that turns the findings of one source into opinions. `kept`: the parts that z is the mean of (None: z as the
    source gives it); `platt` and `calibration` are None without controls."""

    cuts: VerdictCuts
    platt: Platt | None = None
    kept: tuple[str, ...] | None = None
    calibration: Calibration | None = None
    parts: tuple[tuple[str, float, float], ...] = ()
    """(name, AUROC, its lower end) of each part on the controls."""
    certain: bool = False
    """Its word is the truth (people's annotations): confidence 1."""

    def opinion(self, z: float | None, why: str = "", decoy: float | None = None) -> Opinion:
        """The verdict for a number. What is not above its `decoy`, a class that nobody claims, is not present."""
        if z is None or self.cuts.off:
            return Opinion(None, z, None, why if z is None else self.cuts.off)
        verdict = self.cuts.verdict(z)
        if verdict == "present" and decoy is not None and z <= decoy:
            return Opinion("uncertain", z, None, "not_above_decoy")
        if self.certain:
            return Opinion(verdict, z, 1.0)
        if self.platt is None or verdict == "uncertain":
            return Opinion(verdict, z)
        p = float(self.platt.present(z))
        return Opinion(verdict, z, p if verdict == "present" else 1 - p)


def separation(z: Array, truth: Array, picture_of: Array, *, seed: int = 0) -> tuple[float, Interval]:
    """AUROC of z for the truth, and its 95% interval over resamples of pictures."""
    z, truth, picture_of = np.asarray(z, float), np.asarray(truth, bool), np.asarray(picture_of, int)
    pictures = int(picture_of.max()) + 1
    values = resampled_auroc(z, truth, picture_of, pictures, samples=SAMPLES, seed=seed)
    return float(auroc(z, truth)), percentile_interval(values, images=pictures)


def calibrated_cuts(
    z: Array,
    truth: Array,
    picture_of: Array,
    *,
    claimed: Array | None = None,
    precision: float = 0.95,
    seed: int = 0,
) -> SourceCuts:
    """Cuts, probabilities and their quality from controls; `off` is `too_weak` where the lower end of the AUROC is
    below 0.7, `no_controls` where one of the classes is missing. `claimed`: see `precise_cuts`."""
    z, truth, picture_of = np.asarray(z, float), np.asarray(truth, bool), np.asarray(picture_of, int)
    if truth.all() or not truth.any():
        return SourceCuts(VerdictCuts(off="no_controls"))
    picture_of = np.unique(picture_of, return_inverse=True)[1]
    value, interval = separation(z, truth, picture_of, seed=seed)
    platt = fit_platt(z, truth)
    ece, bins = reliability(_out_of_fold(z, truth, picture_of), truth)
    calibration = Calibration(
        claims=len(z),
        present=int(truth.sum()),
        pictures=int(picture_of.max()) + 1,
        auroc=value,
        auroc_low=interval.low,
        auroc_high=interval.high,
        ece=ece,
        bins=bins,
    )
    if interval.low < LEAST_AUROC:
        return SourceCuts(VerdictCuts(off="too_weak"), platt, None, calibration)
    cuts = precise_cuts(z, truth, picture_of, claimed=claimed, precision=precision, seed=seed)
    return SourceCuts(cuts, platt, None, calibration)


def precise_cuts(
    z: Array,
    truth: Array,
    picture_of: Array,
    *,
    claimed: Array | None = None,
    precision: float = 0.95,
    seed: int = 0,
) -> VerdictCuts:
    """t+: the smallest z at and above which at least `precision` of the claims are present; t-: the largest below which
    as many are absent. Both by lower bounds (Wilson's, and the bootstrap over pictures; the lower counts) over at least
    30 claims. Where they overlap there is one cut, at the largest TPR - FPR between them.

    `claimed` [n] says which of them the model claims; the others are absent ones that were added. They would make
    precision of `absent` look better than it is for claims, most of which are true, so t- rests on the claimed alone.
    """
    z, truth, picture_of = np.asarray(z, float), np.asarray(truth, bool), np.asarray(picture_of)
    own = np.ones(len(z), bool) if claimed is None else np.asarray(claimed, bool)
    present_at = _lowest_cut(z, truth, picture_of, precision, seed)
    mirrored = _lowest_cut(-z[own], ~truth[own], picture_of[own], precision, seed)
    if mirrored is None:
        return VerdictCuts(present_at, None)
    above = z[z > -mirrored]  # the mirrored cut is at or below; the cut proper is the next number, or just beyond all
    absent_below = float(above.min()) if len(above) else float(np.nextafter(-mirrored, np.inf))
    if present_at is None or present_at > absent_below:
        return VerdictCuts(present_at, absent_below)
    between = np.unique(z[(z >= present_at) & (z <= absent_below)])
    gain = [(z[truth] >= cut).mean() - (z[~truth] >= cut).mean() for cut in between]
    best = float(between[len(gain) - 1 - int(np.argmax(gain[::-1]))])  # of equals the highest
    return VerdictCuts(best, best)


def _lowest_cut(z: Array, right: Array, picture_of: Array, precision: float, seed: int) -> float | None:
    """The smallest z such that of the claims at or above it a share `precision` is right; None where none is."""
    order = np.argsort(-z, kind="stable")
    ends = np.flatnonzero(np.r_[z[order][1:] != z[order][:-1], True])  # the last claim of each number
    counts = ends + 1.0
    rights = right[order].cumsum()[ends]
    enough = (counts >= LEAST_CLAIMS) & (wilson_low(rights, counts) >= precision)
    if not enough.any():
        return None
    candidates = ends[enough]
    pictures, owner = np.unique(np.asarray(picture_of)[order], return_inverse=True)
    shares = np.empty((SAMPLES, len(candidates)))
    for start, times in resamples(len(pictures), samples=SAMPLES, seed=seed):
        weights = times[:, owner]
        total = weights.cumsum(1)[:, candidates]
        good = (weights * right[order]).cumsum(1)[:, candidates]
        shares[start : start + len(times)] = np.divide(good, total, out=np.ones_like(good), where=total > 0)
    holds = np.quantile(shares, 0.025, axis=0) >= precision
    return float(z[order][candidates[holds][-1]]) if holds.any() else None


def fit_platt(z: Array, truth: Array) -> Platt:
    """Logistic regression of the truth on z, with targets (N+ + 1)/(N+ + 2) and 1/(N- + 2) in place of 1 and 0."""
    from scipy.optimize import minimize

    z, truth = np.asarray(z, float), np.asarray(truth, bool)
    middle, spread = float(z.mean()), float(z.std()) or 1.0
    x = (z - middle) / spread
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(ab: Array) -> tuple[float, Array]:
        logit = ab[0] * x + ab[1]
        residual = 1 / (1 + np.exp(-np.clip(logit, -700, 700))) - target
        value = np.logaddexp(0, logit) - target * logit
        return float(value.mean()), np.array([(residual * x).mean(), residual.mean()])

    slope, offset = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    return Platt(float(slope / spread), float(offset - slope * middle / spread))


def reliability(p: Array, truth: Array, bins: int = BINS) -> tuple[float | None, tuple[ReliabilityBin, ...]]:
    """The expected calibration error over bins of equal count, and these bins. None for no claims."""
    p, truth = np.asarray(p, float), np.asarray(truth, bool)
    if not len(p):
        return None, ()
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    found = tuple(ReliabilityBin(len(part), float(p[part].mean()), float(truth[part].mean())) for part in parts)
    return sum(one.claims * abs(one.predicted - one.observed) for one in found) / len(p), found


def _out_of_fold(z: Array, truth: Array, picture_of: Array, folds: int = 5) -> Array:
    """Each claim's probability from a fit without the pictures of its fold."""
    p = np.empty(len(z))
    for fold in range(folds):
        inside = picture_of % folds == fold
        if inside.any():
            outside = ~inside if (~inside).any() else inside
            p[inside] = fit_platt(z[outside], truth[outside]).present(z[inside])
    return p


def unlabelled_cuts(z: Sequence[float] | Array) -> VerdictCuts:
    """Cuts from numbers without truth: Otsu's, with an uncertain band around it. `off`: `one_group` where the numbers
    don't fall into two groups, `few_claims` for fewer than 30."""
    values = np.sort(np.asarray(z, float))
    if len(values) < LEAST_CLAIMS:
        return VerdictCuts(off="few_claims")
    between, cut, low, high, share = otsu(values)
    if between < LEAST_BETWEEN or not LEAST_GROUP <= share <= 1 - LEAST_GROUP:
        return VerdictCuts(off="one_group")
    return VerdictCuts(cut + BAND * (high - low), cut - BAND * (high - low))


def otsu(z: Array) -> tuple[float, float, float, float, float]:
    """Otsu's cut of numbers [n >= 2]: (share of variance between the groups, the cut halfway between two neighbours,
    mean below, mean above, share above)."""
    values = np.sort(np.asarray(z, float))
    total, n = values.sum(), len(values)
    below = np.arange(1, n)
    low = values.cumsum()[:-1] / below
    high = (total - values.cumsum()[:-1]) / (n - below)
    variance = below * (n - below) / n**2 * (high - low) ** 2
    variance[values[1:] == values[:-1]] = -1.0  # equal numbers stay together
    best = int(np.argmax(variance))
    spread = values.var()
    return (
        float(max(variance[best], 0.0) / spread) if spread > 0 else 0.0,
        float((values[best] + values[best + 1]) / 2),
        float(low[best]),
        float(high[best]),
        float((n - 1 - best) / n),
    )
