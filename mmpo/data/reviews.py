"""What people decided about pairs, answers or claims: `reviews.jsonl`, which only grows, and the numbers that follow.

A line is one decision: `{id, digest, verdict, …}`. The last line of a reviewer about an item counts. `digest` names the
content that was looked at, so that a decision about something that has changed since is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mmpo.errors import UserError
from mmpo.files.atomic import JsonLines, read_jsonl
from mmpo.statistics import Array, Interval, bootstrap_interval, ratio, wilson

Ruling = Literal["accept", "drop", "swap", "edit", "label_wrong", "unsure"]
RULINGS: tuple[str, ...] = get_args(Ruling)
FILE = "reviews.jsonl"


@dataclass(frozen=True)
class MarkedSpan:
    """`text[start:end]` of a side (`chosen`, `rejected`) that the reviewer marked as wrong; characters."""

    side: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class ReviewDecision:
    """One decision. `chosen` and `rejected` are the new texts of an edit (None: that side stays), `label` the right
    one where a label is wrong. `drawn`: the item came from a random sample, so that it counts for shares."""

    id: str
    digest: str
    verdict: Ruling
    reviewer: str
    time: str
    spans: tuple[MarkedSpan, ...] = ()
    note: str = ""
    chosen: str | None = None
    rejected: str | None = None
    label: str | None = None
    drawn: bool = False

    def row(self) -> dict[str, Any]:
        """The line of the file; what is empty is left out."""
        return {name: value for name, value in asdict(self).items() if value not in ((), [], "", None, False)}

    @classmethod
    def read(cls, row: Any, where: str) -> ReviewDecision:
        """UserError for a row that is no decision."""
        known = {one.name for one in fields(cls)}
        texts = ("id", "digest", "verdict", "reviewer", "time")
        if not isinstance(row, Mapping) or not all(isinstance(row.get(name), str) for name in texts):
            raise UserError(f"{where}: not a decision (it needs {', '.join(texts)})")
        if row["verdict"] not in RULINGS:
            raise UserError(f"{where}: verdict {row['verdict']!r} is not one of {', '.join(RULINGS)}")
        try:
            spans = tuple(MarkedSpan(**span) for span in row.get("spans") or ())
        except TypeError:
            raise UserError(f"{where}: `spans` must have side, start, end and text") from None
        return cls(**{name: value for name, value in row.items() if name in known and name != "spans"}, spans=spans)


def read_reviews(*paths: str | Path) -> list[ReviewDecision]:
    """The decisions of several files, in order. UserError names the file and the line."""
    if missing := next((path for path in map(Path, paths) if not path.exists()), None):
        raise UserError(f"{missing}: no decisions there", hint="mmpo review writes them; --file names another file")
    return [
        ReviewDecision.read(row, f"{path}:{number}")
        for path in paths
        for number, row in enumerate(read_jsonl(path), start=1)
    ]


def last_decisions(decisions: Iterable[ReviewDecision]) -> dict[str, dict[str, ReviewDecision]]:
    """id -> reviewer -> the decision that counts."""
    found: dict[str, dict[str, ReviewDecision]] = {}
    for one in decisions:
        found.setdefault(one.id, {})[one.reviewer] = one
    return found


class ReviewLog:
    """`reviews.jsonl`, open for one process (the caller holds its lock). `add` returns once the line is on the disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        earlier = read_reviews(self.path) if self.path.exists() else []
        self._log = JsonLines(self.path)
        self.decisions = last_decisions(earlier)
        self.counts: dict[tuple[str, str], int] = {}
        for one in earlier:
            self._count(one)

    def add(self, decision: ReviewDecision) -> None:
        """Append and fsync. After an error (the disk is full) the file holds whole lines alone, without this one."""
        size = self.path.stat().st_size
        try:
            self._log.append(decision.row())
            self._log.sync()
        except OSError:
            self._reopen(size)
            raise
        self.decisions.setdefault(decision.id, {})[decision.reviewer] = decision
        self._count(decision)

    def version(self, id: str, reviewer: str) -> int:
        """How often the reviewer has decided about the item: a form says which version it was made from."""
        return self.counts.get((id, reviewer), 0)

    def close(self) -> None:
        self._log.close()

    def _count(self, one: ReviewDecision) -> None:
        self.counts[one.id, one.reviewer] = self.version(one.id, one.reviewer) + 1

    def _reopen(self, size: int) -> None:
        """Throw away what is buffered, and what of it reached the file."""
        self._log.abandon()
        with open(self.path, "r+b") as file:
            file.truncate(size)
        self._log = JsonLines(self.path)


@dataclass(frozen=True)
class SampledPrecision:
    """How many of the items that were drawn at random a person accepted; those with `unsure` are left out of it."""

    accepted: int
    decided: int
    unsure: int
    interval: Interval | None

    def __str__(self) -> str:
        if self.interval is None:
            return "no item of a random sample was decided"
        told = f"{self.accepted} of {self.decided} accepted, {_percent(self.interval)}"
        return told + (f"; {self.unsure} unsure" if self.unsure else "")


def sampled_precision(decisions: Iterable[ReviewDecision]) -> SampledPrecision:
    """The precision of whatever made the items, by a random sample (Wilson's 95% interval). Items that two reviewers
    decided differently count as unsure; items that came up for another reason than chance do not count."""
    accepted = decided = unsure = 0
    for by in last_decisions(one for one in decisions if one.drawn).values():
        verdicts = {one.verdict for one in by.values()}
        if verdicts == {"accept"}:
            accepted += 1
        unsure += len({verdict == "accept" for verdict in verdicts}) > 1 or "unsure" in verdicts
        decided += not (len({verdict == "accept" for verdict in verdicts}) > 1 or "unsure" in verdicts)
    return SampledPrecision(accepted, decided, unsure, wilson(accepted, decided) if decided else None)


@dataclass(frozen=True)
class ReviewerAgreement:
    """Cohen's kappa of two reviewers over the items that both decided, with a bootstrap interval over items; None where
    chance alone agrees wholly. `agreed` is the number of equal verdicts."""

    one: str
    other: str
    items: int
    agreed: int
    kappa: float | None
    interval: Interval | None

    def __str__(self) -> str:
        told = f"{self.one} and {self.other} agree on {self.agreed} of {self.items}"
        if self.kappa is None or self.interval is None:
            return f"{told}; kappa is undefined: both use one verdict alone"
        return f"{told}, kappa {self.kappa:.2f} ({self.interval.low:.2f} to {self.interval.high:.2f})"


def agreements(decisions: Iterable[ReviewDecision], *, samples: int = 2000, seed: int = 0) -> list[ReviewerAgreement]:
    """The agreement of every two reviewers who share items."""
    items = last_decisions(decisions)
    people = sorted({reviewer for by in items.values() for reviewer in by})
    found = []
    for place, one in enumerate(people):
        for other in people[place + 1 :]:
            shared = [(by[one].verdict, by[other].verdict) for by in items.values() if one in by and other in by]
            if shared:
                found.append(_agreement(one, other, shared, samples, seed))
    return found


def cohen_kappa(table: Array) -> Array:
    """Cohen's kappa (1960) of contingency tables [..., K, K]; nan where chance alone agrees wholly."""
    table = np.asarray(table, float)
    total = table.sum((-2, -1))
    observed = ratio(np.trace(table, axis1=-2, axis2=-1), total)
    chance = ratio((table.sum(-1) * table.sum(-2)).sum(-1), total**2)
    return np.where(chance < 1, ratio(observed - chance, 1 - chance), np.nan)


def _agreement(one: str, other: str, shared: Sequence[tuple[str, str]], samples: int, seed: int) -> ReviewerAgreement:
    size = len(RULINGS)
    counts = np.zeros((len(shared), size * size))
    for row, (a, b) in enumerate(shared):
        counts[row, RULINGS.index(a) * size + RULINGS.index(b)] = 1
    agreed = sum(a == b for a, b in shared)

    def statistic(sums: Array) -> Array:
        # a resample in which both use one verdict alone agrees wholly
        return np.nan_to_num(cohen_kappa(sums.reshape(*sums.shape[:-1], size, size)), nan=1.0)

    kappa = float(cohen_kappa(counts.sum(0).reshape(size, size)))
    if np.isnan(kappa):
        return ReviewerAgreement(one, other, len(shared), agreed, None, None)
    interval = bootstrap_interval(counts, statistic, samples=samples, seed=seed)
    return ReviewerAgreement(one, other, len(shared), agreed, kappa, interval)


@dataclass(frozen=True)
class SettledRuling:
    """What all reviewers together say of an item: their verdict where they agree, else `unsure`."""

    verdict: Ruling
    decision: ReviewDecision
    reviewers: tuple[str, ...] = field(default=())


def settled(by: Mapping[str, ReviewDecision]) -> SettledRuling:
    """One ruling of an item's decisions. Two edits agree where their texts do."""
    decisions = list(by.values())
    same = {(one.verdict, one.chosen, one.rejected, one.label) for one in decisions}
    last = max(decisions, key=lambda one: one.time)
    return SettledRuling(last.verdict if len(same) == 1 else "unsure", last, tuple(sorted(by)))


def _percent(interval: Interval) -> str:
    return f"{100 * interval.low:.0f}-{100 * interval.high:.0f} %"
