"""Findings of an evaluation in plain lines: wrong claims, what is better, what is worse, and what nobody can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmpo.eval.statistics.drift import SIGNIFICANT
from mmpo.eval.statistics.rows import MetricRow, number

if TYPE_CHECKING:
    from mmpo.eval.statistics.scorecard import Scorecard


def headline_rows(rows: Sequence[MetricRow]) -> Iterator[MetricRow]:
    """One row a benchmark: its headline metric (without one the first with a good direction), over everything where
    that is there, else of its last split.
    """
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark and row.better != "neither"]
        highest = max((row.headline for row in own), default=0)
        if chosen := [row for row in own if row.headline == highest]:
            yield next((row for row in chosen if row.split is None), chosen[-1])


def verdict(card: Scorecard) -> list[str]:
    """First a line about each metric that has a sentence, with the parts that got worse. Then three lines. With a
    before and an after: headline numbers that are clearly better, clearly worse (p below 0.05), and neither, and what
    else got clearly worse: an improvement has its price told beside it. Of one model: the numbers, what they rest on,
    and how many warnings there are. Last, of two, whether the model got worse at what no benchmark asks.
    """
    told = dict.fromkeys((row.benchmark, row.sentence) for row in card.rows if row.sentence)
    lines = [_told([row for row in card.rows if (row.benchmark, row.sentence) == one], one[1]) for one in told]
    others = [row for row in card.rows if not row.sentence]
    without = {benchmark for benchmark, _ in told}
    heads = list(headline_rows([row for row in others if row.benchmark not in without]))
    return [
        *filter(None, lines),
        *(_compared(card, others, heads) if card.compared else _measured(card, others, heads)),
        *([card.drift.sentence()] if card.compared and card.drift is not None else []),
    ]


def _told(rows: Sequence[MetricRow], sentence: str) -> str:
    """A line about one metric: overall, then its parts (of one model), or those that got worse (of two)."""
    whole = next((row for row in rows if row.split is None), None)
    if whole is None:
        return ""
    if not whole.defined:
        return f"{sentence.partition(':')[0]}: undefined (nothing to divide by)"
    parts = [row for row in rows if row.split is not None and row.after.defined]
    if whole.before is None or whole.change is None:
        each = ", ".join(f"{row.split} {number(row.after.value, row.percent)}" for row in parts)
        return f"{sentence.replace('{}', number(whole.after.value, whole.percent))} ({each})"
    found: dict[str, list[str]] = {"worse": [], "perhaps worse": []}
    for row in parts:
        if row.before is not None and row.before.defined and row.change is not None and _worse(row):
            moved = f"{row.split} {number(row.before.value, row.percent)} → {number(row.after.value, row.percent)}"
            found["worse" if row.change.p < SIGNIFICANT else "perhaps worse"].append(moved)
    said = [f"{how}: {', '.join(moved)}" for how, moved in found.items() if moved] or ["no kind is worse"]
    clear = "" if whole.change.p < SIGNIFICANT else ", no clear change"
    moved = f"{number(whole.before.value, whole.percent)} → {number(whole.after.value, whole.percent)}"
    return f"{sentence.replace('{}', moved)}{clear}; {'; '.join(said)}"


def _worse(row: MetricRow) -> bool:
    return row.change is not None and (row.change.value < 0 if row.better == "higher" else row.change.value > 0)


def _named(row: MetricRow) -> str:
    split = f" {row.split}" if row.split else ""
    return f"{row.benchmark.upper()}{split} {row.shown}"


def _care(card: Scorecard) -> str:
    warned = len(card.warnings)
    return f"{warned} warning{'s' if warned != 1 else ''} under the table" if warned else "no warnings"


def _measured(card: Scorecard, all_rows: Sequence[MetricRow], rows: Sequence[MetricRow]) -> list[str]:
    found = [f"{_named(row)} {number(row.after.value, row.percent)}" for row in rows if row.after.defined]
    lost = _undefined([_named(row) for row in rows if not row.after.defined])
    questions, unread, cut = (
        sum(value or 0 for value in values)
        for values in zip(*((c.questions, c.unparsed, c.truncated) for c in card.counts), strict=True)
    ) if card.counts else (0, 0, 0)  # fmt: skip
    return [
        *([f"Measured: {'; '.join(found) or 'nothing'}{lost}"] if rows or not card.rows else []),
        f"Rests on: {questions:,} answers, of which {unread:,} could not be read and {cut:,} were cut off",
        f"Take care: {_care(card)}",
    ]


def _compared(card: Scorecard, all_rows: Sequence[MetricRow], rows: Sequence[MetricRow]) -> list[str]:
    lost = [_named(row) for row in rows if not row.after.defined]
    groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not clear": []}
    for row in rows:
        if row.before is None or row.change is None or not (row.before.defined and row.after.defined):
            continue
        moved = f"{_named(row)} {number(row.before.value, row.percent)} → {number(row.after.value, row.percent)}"
        if row.change.p >= SIGNIFICANT:
            least = row.change.detectable
            shows = "" if least is None else f" (these images would show {number(least, row.percent)})"
            groups["Not clear"].append(moved + shows)
        else:
            better = (row.change.value > 0) == (row.better == "higher")
            groups["Better" if better else "Worse"].append(moved)
    for row in _price(all_rows, rows):
        assert row.before is not None
        groups["Worse"].append(
            f"{_named(row)} {number(row.before.value, row.percent)} → {number(row.after.value, row.percent)}"
        )
    lines = [f"{name}: {'; '.join(found) or 'nothing'}" for name, found in groups.items()]
    lines[-1] += f"{_undefined(lost)}. Take care: {_care(card)}"
    return lines


def _price(rows: Sequence[MetricRow], told: Sequence[MetricRow]) -> list[MetricRow]:
    """Of each metric that is no headline and got clearly worse, one row: over everything, else of its last split."""
    found: dict[tuple[str, str], MetricRow] = {}
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
