"""Sums over numbers that come in parts, in memory that does not depend on how many there are. A value that is none
(NaN: a number that a pair lacks) counts nowhere.

Shapes: n numbers of a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

SMALLEST, LARGEST, BINS = 0.01, 1e6, 900
"""A histogram's bins are about as wide as `SMALLEST` near 0, and grow with the value up to `LARGEST`, by 4 %."""


@dataclass
class Moments:
    """Number, mean and standard deviation (Chan et al. 1983: merged from the parts' own)."""

    count: int = 0
    _mean: float = 0.0
    _squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        total = self.count + len(values)
        apart = mean - self._mean
        self._squares += squares + apart * apart * self.count * len(values) / total
        self._mean += apart * len(values) / total
        self.count = total

    @property
    def mean(self) -> float | None:
        """None without numbers."""
        return self._mean if self.count else None

    @property
    def deviation(self) -> float | None:
        """The sample's, with n - 1; None for fewer than two numbers."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None


@dataclass
class Correlation:
    """Pearson's, of numbers that come in twos."""

    _x: Moments = field(default_factory=Moments)
    _y: Moments = field(default_factory=Moments)
    _together: float = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        there = ~(np.isnan(x) | np.isnan(y))
        x, y = x[there], y[there]
        if not len(x):
            return
        mean_x, mean_y = float(x.mean()), float(y.mean())
        count = self._x.count
        apart = (mean_x - (self._x.mean or 0.0)) * (mean_y - (self._y.mean or 0.0))
        own = float(((x - mean_x) * (y - mean_y)).sum())
        self._together += own + apart * count * len(x) / (count + len(x))
        self._x.add(x)
        self._y.add(y)

    @property
    def value(self) -> float | None:
        """None where one of the two is constant, or there are fewer than two."""
        if not self._x.deviation or not self._y.deviation:
            return None
        return self._together / ((self._x.count - 1) * self._x.deviation * self._y.deviation)


def _edges() -> np.ndarray:
    # sinh is a line near 0 and an exponential far from it, on both sides
    reach = math.asinh(LARGEST / SMALLEST)
    return SMALLEST * np.sinh(np.linspace(-reach, reach, BINS + 1))


@dataclass
class Histogram:
    """Counts in fixed bins; what lies outside is in the outermost."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    EDGES = _edges()

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float64)
        values = values[~np.isnan(values)]
        places = np.clip(np.searchsorted(self.EDGES, values, side="right") - 1, 0, BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, q: float) -> float | None:
        """The value below which a share `q` lies, between the edges of its bin; None without numbers."""
        if not self.total:
            return None
        below = self.counts.cumsum()
        place = int(np.searchsorted(below, q * self.total, side="left"))
        before = below[place - 1] if place else 0
        inside = (q * self.total - before) / max(1, self.counts[place])
        low, high = self.EDGES[place], self.EDGES[place + 1]
        return float(low + min(max(inside, 0.0), 1.0) * (high - low))

    def bars(self, low: float, high: float, number: int) -> list[float]:
        """The counts between `low` and `high` in `number` bars of one width; a bin is spread over the bars it meets."""
        edges = np.linspace(low, high, number + 1)
        filled = np.interp(edges, self.EDGES, np.r_[0, self.counts.cumsum()])
        return [float(value) for value in np.diff(filled)]
