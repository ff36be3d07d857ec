"""What an evaluation found, in three plain lines: what is better, what is worse, and what nobody can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmpo.eval.scorecard import Row, Scorecard

HEADLINES = (
    "AMBER_score", "mean_F1", "F1", "CHAIRs_refine", "CHAIRs", "hal_sents_ratio", "overall", "score", "aAcc",
    "accuracy",
)  # fmt: skip
"""The metric that stands for a benchmark, the first that it has; without one its first metric with a good direction."""
SIGNIFICANT = 0.05


def headline_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """One row a benchmark: its headline metric, over everything where that is there, else of its last split."""
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark and row.better != "neither"]
        chosen = next(
            ([r for r in own if r.metric == name] for name in HEADLINES if name in {r.metric for r in own}), own
        )
        if chosen:
            yield next((row for row in chosen if row.split is None), chosen[-1])


def verdict(card: Scorecard) -> list[str]:
    """Three lines. With a before and an after: headline numbers that are clearly better, clearly worse (p below 0.05),
    and neither, and what else got clearly worse: an improvement has its price told beside it. Of one model: the
    numbers, what they rest on, and how many warnings there are.
    """
    from mmpo.eval.scorecard import LABELS, number

    def named(row: Row) -> str:
        split = f" {row.split}" if row.split else ""
        return f"{row.benchmark.upper()}{split} {LABELS.get(row.metric, row.metric)}"

    warned = len(card.warnings)
    care = f"{warned} warning{'s' if warned != 1 else ''} under the table" if warned else "no warnings"
    rows = list(headline_rows(card.rows))
    lost = [named(row) for row in rows if not row.after.defined]
    if not card.compared:
        found = [f"{named(row)} {number(row.after.value, row.percent)}" for row in rows if row.after.defined]
        questions, unread, cut = (
            sum(value or 0 for value in values)
            for values in zip(*((c.questions, c.unparsed, c.truncated) for c in card.counts), strict=True)
        ) if card.counts else (0, 0, 0)  # fmt: skip
        return [
            f"Measured: {'; '.join(found) or 'nothing'}{_undefined(lost)}",
            f"Rests on: {questions:,} answers, of which {unread:,} could not be read and {cut:,} were cut off",
            f"Take care: {care}",
        ]
    groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not clear": []}
    for row in rows:
        if row.before is None or row.change is None or not (row.before.defined and row.after.defined):
            continue
        moved = f"{named(row)} {number(row.before.value, row.percent)} → {number(row.after.value, row.percent)}"
        if row.change.p >= SIGNIFICANT:
            least = row.change.detectable
            shows = "" if least is None else f" (these images would show {number(least, row.percent)})"
            groups["Not clear"].append(moved + shows)
        else:
            better = (row.change.value > 0) == (row.better == "higher")
            groups["Better" if better else "Worse"].append(moved)
    for row in _price(card.rows, rows):
        assert row.before is not None
        groups["Worse"].append(
            f"{named(row)} {number(row.before.value, row.percent)} → {number(row.after.value, row.percent)}"
        )
    lines = [f"{name}: {'; '.join(found) or 'nothing'}" for name, found in groups.items()]
    lines[-1] += f"{_undefined(lost)}. Take care: {care}"
    return lines


def _price(rows: Sequence[Row], told: Sequence[Row]) -> list[Row]:
    """Of each metric that is no headline and got clearly worse, one row: over everything, else of its last split."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if any(row is one for one in told) or row.better == "neither" or row.change is None or row.before is None:
            continue
        worse = (row.change.value < 0) == (row.better == "higher") and row.change.p < SIGNIFICANT
        known = found.get((row.benchmark, row.metric))
        if worse and row.before.defined and row.after.defined and (known is None or known.split is not None):
            found[row.benchmark, row.metric] = row
    return list(found.values())


def _undefined(names: Sequence[str]) -> str:
    return f"; undefined: {', '.join(names)}" if names else ""
