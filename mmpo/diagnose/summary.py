"""The numbers of a set of pairs, summed up row by row in memory that does not depend on how many there are.

Symbols: W, L policy log-probs of chosen and rejected, Wr, Lr the reference's, a = W - Wr, b = L - Lr, D = a - b.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmpo.diagnose.displacement import log_field_ratio, log_gradient_ratio
from mmpo.diagnose.ranking import flip_distance, idealized_right, right
from mmpo.diagnose.streaming import Correlation, Histogram, Moments
from mmpo.diagnose.table import PairColumns

DRAWN_POINTS = 2000
"""Points of a chart at most."""
HIGHEST = 20
"""Pairs of the highest CHES that are named."""


@dataclass
class Proportion:
    """`hits` of `total`."""

    hits: int = 0
    total: int = 0

    def add(self, flags: np.ndarray, there: np.ndarray) -> None:
        """Count those of `flags` [n] bool that are `there` [n] bool."""
        self.hits += int((flags & there).sum())
        self.total += int(there.sum())

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


@dataclass
class Distribution:
    """Moments and a histogram of the same numbers."""

    moments: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, values: np.ndarray) -> None:
        self.moments.add(values)
        self.histogram.add(values)

    @property
    def mean(self) -> float | None:
        return self.moments.mean

    @property
    def median(self) -> float | None:
        return self.histogram.quantile(0.5)


@dataclass
class SetSummary:
    """The sums of one set. Shares and spreads without numbers were not asked for, or need an adapter."""

    beta: float
    betas: Sequence[float]
    agreement: float
    every: int = 1
    """Of how many rows one is kept as a point of a chart."""
    left_out: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    policy_right: Proportion = field(default_factory=Proportion)
    policy_right_by_length: Proportion = field(default_factory=Proportion)
    reference_right: Proportion = field(default_factory=Proportion)
    reference_right_by_length: Proportion = field(default_factory=Proportion)
    idealized: dict[float, Proportion] = field(default_factory=dict)
    implicit_right: Proportion = field(default_factory=Proportion)
    trained_right: Proportion = field(default_factory=Proportion)
    held_out_right: Proportion = field(default_factory=Proportion)
    flip_above: Distribution = field(default_factory=Distribution)
    """Distances of the pairs that are not yet ranked right."""
    flip: Distribution = field(default_factory=Distribution)
    chosen_fell: Proportion = field(default_factory=Proportion)
    both_fell: Proportion = field(default_factory=Proportion)
    chosen_change: Distribution = field(default_factory=Distribution)
    rejected_change: Distribution = field(default_factory=Distribution)
    chosen_change_per_token: Moments = field(default_factory=Moments)
    rejected_change_per_token: Moments = field(default_factory=Moments)
    margin: Distribution = field(default_factory=Distribution)
    gradient_ratio: Distribution = field(default_factory=Distribution)
    field_ratio: Distribution = field(default_factory=Distribution)
    ches: Distribution = field(default_factory=Distribution)
    ches_normalized: Distribution = field(default_factory=Distribution)
    ches_relative: Distribution = field(default_factory=Distribution)
    perception_chosen: Distribution = field(default_factory=Distribution)
    perception_rejected: Distribution = field(default_factory=Distribution)
    chosen_tokens: Distribution = field(default_factory=Distribution)
    rejected_tokens: Distribution = field(default_factory=Distribution)
    reward_length: Correlation = field(default_factory=Correlation)
    margin_length: Correlation = field(default_factory=Correlation)
    points: list[tuple[float, float]] = field(default_factory=list)
    """(a, b) of pairs at even distances."""
    _alike: list[tuple[float, int, str]] = field(default_factory=list)
    _seen: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """`in`, `diagnosed`, and the others by reason; those add up to `in`."""
        table = {"in": self.pairs + self.left_out.total(), "diagnosed": self.pairs}
        return table | {reason: self.left_out[reason] for reason in sorted(self.left_out)}

    @property
    def most_alike(self) -> list[tuple[str, float]]:
        """(id, relative CHES) of the pairs whose sides are most alike, the most alike first."""
        return [(name, value) for value, _, name in sorted(self._alike, key=lambda one: (-one[0], -one[1]))]

    def add(self, rows: PairColumns) -> None:
        """Take in some rows of the table."""
        self.left_out.update(rows.left_out)
        self.pairs += len(rows.rows)
        everyone = np.ones(len(rows.rows), dtype=bool)
        chosen, rejected = rows["reference_chosen"], rows["reference_rejected"]
        tokens = rows["chosen_tokens"], rows["rejected_tokens"]
        self.reference_right.add(right(chosen, rejected), everyone)
        self.reference_right_by_length.add(right(chosen, rejected, *tokens), everyone)
        for beta in self.betas:
            share = self.idealized.setdefault(beta, Proportion())
            share.add(idealized_right(chosen - rejected, beta, self.agreement), everyone)
        self.chosen_tokens.add(tokens[0])
        self.rejected_tokens.add(tokens[1])
        for name in ("ches", "ches_normalized", "ches_relative", "perception_chosen", "perception_rejected"):
            spread: Distribution = getattr(self, name)
            spread.add(rows[name])
        self._note_alike(rows)
        trained = bool(len(rows.rows)) and not np.isnan(rows["policy_chosen"]).all()
        if trained:
            self._add_policy(rows)
            chosen, rejected = rows["policy_chosen"], rows["policy_rejected"]
        self.gradient_ratio.add(log_gradient_ratio(chosen, rejected))

    def _add_policy(self, rows: PairColumns) -> None:
        w, l_, wr, lr = (
            rows[name] for name in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
        )
        n_w, n_l = rows["chosen_tokens"], rows["rejected_tokens"]
        everyone = np.ones(len(w), dtype=bool)
        a, b = w - wr, l_ - lr
        self.policy_right.add(right(w, l_), everyone)
        self.policy_right_by_length.add(right(w, l_, n_w, n_l), everyone)
        ahead = a - b > 0  # a tie is an error
        self.implicit_right.add(ahead, everyone)
        self.trained_right.add(ahead, ~rows.held_out)
        self.held_out_right.add(ahead, rows.held_out)
        distance = flip_distance(w - l_, wr - lr, self.beta)
        self.flip.add(distance)
        self.flip_above.add(distance[w < l_])
        self.chosen_fell.add(a < 0, everyone)
        self.both_fell.add((a < 0) & (b < 0), everyone)
        self.chosen_change.add(a)
        self.rejected_change.add(b)
        self.chosen_change_per_token.add(a / n_w)
        self.rejected_change_per_token.add(b / n_l)
        self.margin.add(a - b)
        self.field_ratio.add(log_field_ratio(a, b))
        self.reward_length.add(np.r_[a, b], np.r_[n_w, n_l])
        self.margin_length.add(a - b, n_w - n_l)
        drawn = np.arange(self._seen, self._seen + len(a)) % self.every == 0
        self.points += list(zip(a[drawn].tolist(), b[drawn].tolist(), strict=True))
        self._seen += len(a)

    def _note_alike(self, rows: PairColumns) -> None:
        values = rows["ches_relative"]
        there = np.flatnonzero(~np.isnan(values))
        best = there[np.argsort(-values[there], kind="stable")[:HIGHEST]]
        for k in best:
            entry = (float(values[k]), -int(rows.rows[k]), rows.ids[k])
            if len(self._alike) < HIGHEST:
                heapq.heappush(self._alike, entry)
            else:
                heapq.heappushpop(self._alike, entry)


def summarize(
    table: Iterable[PairColumns], *, beta: float, betas: Sequence[float], agreement: float, pairs: int
) -> SetSummary:
    """The sums over a table of `pairs` rows."""
    found = SetSummary(beta, betas, agreement, every=max(1, -(-pairs // DRAWN_POINTS)))
    for rows in table:
        found.add(rows)
    return found
