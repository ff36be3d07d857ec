"""What an evaluation found, in plain lines: wrong claims, what is better, what is worse, and what nobody can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmpo.eval.statistics.rows import LABELS, Row, number

if TYPE_CHECKING:
    from mmpo.eval.statistics.scorecard import Scorecard

HEADLINES = (
    "AMBER_score", "mean_F1", "F1", "CHAIRs_refine", "CHAIRs", "hal_sents_ratio", "overall", "score", "aAcc",
    "accuracy",
)  # fmt: skip
"""The metric that stands for a benchmark, the first that it has; without one its first metric with a good direction."""
SIGNIFICANT = 0.05


def headline_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """One row a benchmark: its headline metric, over everything where that is there, else of its last split. Claims
    have a line of their own.
    """
    for benchmark in dict.fromkeys(row.benchmark for row in rows if row.benchmark != "claims"):
        own = [row for row in rows if row.benchmark == benchmark and row.better != "neither"]
        chosen = next(
            ([r for r in own if r.metric == name] for name in HEADLINES if name in {r.metric for r in own}), own
        )
        if chosen:
            yield next((row for row in chosen if row.split is None), chosen[-1])


def verdict(card: Scorecard) -> list[str]:
    """Where claims were judged, a line about the wrong ones, with the kinds that got worse. Then three lines. With a
    before and an after: headline numbers that are clearly better, clearly worse (p below 0.05), and neither, and what
    else got clearly worse: an improvement has its price told beside it. Of one model: the numbers, what they rest on,
    and how many warnings there are.
    """
    claims = [row for row in card.rows if (row.benchmark, row.metric) == ("claims", "wrong")]
    others = [row for row in card.rows if not any(row is claim for claim in claims)]
    lines = _compared(card, others) if card.compared else _measured(card, others)
    return [*_claims(claims), *lines]


def _claims(rows: Sequence[Row]) -> list[str]:
    """One line about wrong claims: overall, then the kinds (of one model), or those that got worse (of two)."""
    whole = next((row for row in rows if row.split is None), None)
    if whole is None:
        return []
    if not whole.after.defined or (whole.before is not None and not whole.before.defined):
        return ["Wrong claims: undefined, the annotations decide none of those that were read"]
    kinds = [row for row in rows if row.split is not None and row.after.defined]
    if whole.before is None or whole.change is None:
        each = ", ".join(f"{row.split} {number(row.after.value, True)}" for row in kinds)
        return [f"Wrong claims: {number(whole.after.value, True)} % of those that the annotations decide ({each})"]
    found: dict[str, list[str]] = {"worse": [], "perhaps worse": []}
    for row in kinds:
        if row.before is not None and row.before.defined and row.change is not None and row.change.value > 0:
            moved = f"{row.split} {number(row.before.value, True)} → {number(row.after.value, True)}"
            found["worse" if row.change.p < SIGNIFICANT else "perhaps worse"].append(moved)
    told = [f"{how}: {', '.join(moved)}" for how, moved in found.items() if moved] or ["no kind is worse"]
    clear = "" if whole.change.p < SIGNIFICANT else ", no clear change"
    return [
        f"Wrong claims: {number(whole.before.value, True)} → {number(whole.after.value, True)} % of those that the "
        f"annotations decide{clear}; {'; '.join(told)}"
    ]


def _named(row: Row) -> str:
    split = f" {row.split}" if row.split else ""
    return f"{row.benchmark.upper()}{split} {LABELS.get(row.metric, row.metric)}"


def _care(card: Scorecard) -> str:
    warned = len(card.warnings)
    return f"{warned} warning{'s' if warned != 1 else ''} under the table" if warned else "no warnings"


def _measured(card: Scorecard, all_rows: Sequence[Row]) -> list[str]:
    rows = list(headline_rows(all_rows))
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


def _compared(card: Scorecard, all_rows: Sequence[Row]) -> list[str]:
    rows = list(headline_rows(all_rows))
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
