"""Scored answers as tables for people: single numbers in a list, splits and categories as rows of one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmpo.cli import console
from mmpo.eval.scoring import Scored
from mmpo.eval.statistics.scorecard import table_width

PAGE = 120
FEW, WIDE = 4, 7
"""Groups that are columns of one table; numbers that fit in one row."""


def show(scored: Scored, benchmark: str) -> None:
    """Print a verdict in three lines, the numbers, the warnings, and the conventions (no file has them)."""
    for said in verdict(scored, benchmark):
        console.out.print(Text(said, style="bold"), soft_wrap=True)
    for table in tables(scored.metrics, benchmark.upper(), scored.intervals, console.out.width):
        console.out.print(table)
    for warning in scored.warnings:
        console.out.print(Text(f"! {warning}", style="yellow"), soft_wrap=True)
    for convention in scored.conventions:
        console.out.print(Text(f"  {convention}", style="dim"), soft_wrap=True)


def verdict(scored: Scored, benchmark: str) -> list[str]:
    """The first numbers, what they rest on, and the number of warnings."""
    first = list(_first_numbers(scored.metrics))[:3]
    counts = f"{scored.read:,} answers read, {scored.scored:,} scored, {scored.unparsed:,} of them unparsed"
    if scored.quarantined:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in scored.quarantined.items())
        counts += f"; left out: {reasons}"
    warned = len(scored.warnings)
    return [
        f"{benchmark}: {', '.join(f'{name} {number(value)}' for name, value in first) or 'no number is defined'}",
        counts,
        f"Take care: {warned} warning{'s' if warned != 1 else ''} below" if warned else "Take care: no warnings",
    ]


def _first_numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The defined numbers with a fraction, single ones first, then those of groups."""
    for name, value in metrics.items():
        if isinstance(value, float):
            yield f"{prefix}{name}", value
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _first_numbers(value, f"{prefix}{name} ")


def tables(
    metrics: Mapping[str, Any], title: str, intervals: Mapping[str, Any] | None = None, width: int = PAGE
) -> Iterator[Table]:
    """One table for the single numbers, one for all groups of numbers with the same names, and so on inwards. 95%
    intervals (named as the metrics) stand after their numbers where there is room in `width` columns; a number is
    never cut.
    """
    known = intervals or {}
    single = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    if single:
        table = _table(title, ("metric", "value"))
        for name, value in single.items():
            table.add_row(name, _with_interval(value, known.get(name)))
        yield table
    flat: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for name, group in metrics.items():
        if isinstance(group, Mapping) and not any(isinstance(value, Mapping) for value in group.values()):
            flat.setdefault(tuple(group), {})[name] = group
    for columns, groups in flat.items():
        yield from _groups("" if single else title, columns, groups, known, width)
    for name, group in metrics.items():
        if isinstance(group, Mapping) and any(isinstance(value, Mapping) for value in group.values()):
            yield from tables(group, f"{title} {name}", known.get(name), width)


def _groups(
    title: str, columns: tuple[str, ...], groups: Mapping[str, Mapping[str, Any]], known: Mapping[str, Any], width: int
) -> Iterator[Table]:
    """Groups with the same names as one table: a group is a column where there are few, else a row, cut to pieces
    that fit on a page.
    """
    if len(groups) <= FEW < len(columns):
        table = _table(title, ("", *groups))
        for column in columns:
            cells = (_with_interval(group[column], known.get(name, {}).get(column)) for name, group in groups.items())
            table.add_row(column, *cells)
        if table_width(table) <= width:
            yield table
            return
    start = 0
    while start < len(columns):
        for count in range(min(WIDE, len(columns) - start), 0, -1):
            table = _table(title, ("", *columns[start : start + count]))
            for name, group in groups.items():
                table.add_row(name, *(number(group[column]) for column in columns[start : start + count]))
            if table_width(table) <= width:
                break
        yield table
        start += count


def _with_interval(value: Any, interval: Sequence[float] | None) -> str:
    return number(value) + (f" [{', '.join(number(bound) for bound in interval)}]" if interval else "")


def number(value: Any) -> str:
    """Counts as they are, fractions with four decimals, larger numbers with two; what is undefined as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
    for place, name in enumerate(columns):
        first = place == 0  # names may fold, numbers never
        table.add_column(name, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    return table
