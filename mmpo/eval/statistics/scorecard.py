"""The result of an evaluation: every metric with its interval, before and after, as data, as Markdown and as a table
on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from mmpo.errors import UserError
from mmpo.eval.statistics.drift import SIGNIFICANT, Drift
from mmpo.eval.statistics.rows import Category, Change, Estimate, FrozenRecord, MetricCounts, MetricRow, Overlap, number
from mmpo.eval.statistics.verdict import verdict

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


class Scorecard(FrozenRecord):
    """An evaluation's result. Fractions, not percentages. Print it with rich, or take `to_markdown()`."""

    model: str
    adapter: str | None
    before: str | None = Field(default=None, description="The model before, where it is another than `model`.")
    rows: list[MetricRow]
    counts: list[MetricCounts]
    categories: list[Category] = Field(default_factory=list)
    conventions: list[str]
    warnings: list[str]
    quarantined: dict[str, int] = Field(description="Images that could not be used, by reason.")
    overlap: Overlap | None = Field(
        default=None, description="Images shared with the pairs trained on; None where these are not known."
    )

    drift: Drift | None = Field(
        default=None, description="What got worse beside the benchmarks; None in a scorecard of mmpo 0.1."
    )

    def row(self, benchmark: str, metric: str, split: str | None = None) -> MetricRow:
        """The row of a metric. Raises KeyError where the scorecard has none."""
        for row in self.rows:
            if (row.benchmark, row.metric, row.split) == (benchmark, metric, split):
                return row
        raise KeyError(f"no {benchmark} {split or ''} {metric} in this scorecard")

    @property
    def compared(self) -> bool:
        """True if it holds a before and an after."""
        return any(row.before is not None for row in self.rows)

    @classmethod
    def read(cls, path: str | Path) -> Scorecard:
        """Read a `scorecard.json`. Raises UserError where it is missing or not one."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} does not exist", hint="mmpo eval writes it at the end of a run") from None
        except ValidationError as error:
            raise UserError(f"{path} is not a scorecard: {error.errors()[0]['msg']}") from None

    def to_markdown(self) -> str:
        """The whole scorecard as a Markdown page."""
        header = self._header()
        found = [f"- {line}" for line in self.verdict()]
        lines = [
            "# Scorecard",
            "",
            *self._title(),
            "",
            *found,
            "",
            f"| {' | '.join(header)} |",
            "|" + " --- |" * len(header),
        ]
        for heading, rows in self._sections():
            lines.append("| " + " | ".join([f"**{heading}**"] + [""] * (len(header) - 1)) + " |")
            lines += ["| " + " | ".join(self._cells(row)) + " |" for row in rows]
        if self.drift is not None:
            lines += self.drift.to_markdown()
        lines += self._category_lines()
        for title, notes in (
            ("Warnings", self.warnings),
            ("Answers", self._count_lines()),
            ("Metrics", self._meanings()),
            ("How to read this", self.conventions),
        ):
            if notes:
                lines += ["", f"## {title}", "", *(f"- {note}" for note in notes)]
        return "\n".join(lines) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The verdict, the table in the widest form that fits, warnings and counts; how to read them is in the file."""
        for line in self.verdict():
            yield Text(line, style="bold", overflow="fold")
        yield Text()
        forms = (self._table(narrow) for narrow in (False, True))
        yield next((table for table in forms if table_width(table) <= options.max_width), None) or self._list()
        if self.drift is not None:
            if self.drift.screen_rows():
                table = self.drift.table()
                yield table if table_width(table) <= options.max_width else Text("\n".join(self.drift.lines()))
            for lacking in self.drift.lacking():
                yield Text(f"  {lacking}", style="dim", overflow="fold")
        for warning in self.warnings:
            loud = self.overlap is not None and warning == self.overlap.warning()
            yield Text(f"! {warning}", style="bold red" if loud else "yellow", overflow="fold")
        clear = [c for c in self.categories if c.q is not None and c.q < SIGNIFICANT]
        found = f", {len(clear)} of them changed (q < {SIGNIFICANT})" if self.compared else ""
        categories = [f"{len(self.categories)} categories{found}: see scorecard.md"] if self.categories else []
        for note in [*categories, *self._count_lines(), "how the numbers were made: scorecard.md"]:
            yield Text(f"  {note}", style="dim", overflow="fold")

    def verdict(self) -> list[str]:
        """The findings in plain lines (see `mmpo.eval.statistics.verdict`)."""
        return verdict(self)

    def _table(self, narrow: bool) -> Table:
        """The rows as a table; `narrow` puts intervals under their values."""
        title = "\n".join(self._title())
        table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
        for place, name in enumerate(self._header()):
            name = name.replace(" [", "\n[") if narrow else name
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
        for heading, rows in self._sections():
            table.add_section()
            table.add_row(Text(heading, style="bold"))
            for row in rows:
                cells = [Text(cell.replace(" [", "\n[") if narrow else cell) for cell in self._cells(row)]
                if row.change is not None and row.change.p < SIGNIFICANT and row.better != "neither":
                    good = (row.change.value > 0) == (row.better == "higher")
                    cells[3].stylize("green" if good else "red")
                table.add_row(*cells)
        return table

    def _list(self) -> Text:
        """The rows as lines, for a terminal in which no table fits: nothing is ever cut off a number."""
        lines = self._title()
        for heading, rows in self._sections():
            lines.append(heading)
            for row in rows:
                name, *cells = self._cells(row)
                values = [
                    f"{title.split(' [')[0]} {cell}" for title, cell in zip(self._header()[1:], cells, strict=True)
                ]
                lines += [f"  {name}", *(f"    {value}" for value in values)]
        return Text("\n".join(lines), overflow="fold")

    def _title(self) -> list[str]:
        what = f"{self.adapter} on {self.model}" if self.adapter else self.model
        first = self.before or "the model without the adapter"
        return [f"{what}: before is {first}" if self.compared else what]

    def _header(self) -> list[str]:
        return (
            ["metric", "before [95%]", "after [95%]", "difference [95%]", "p"]
            if self.compared
            else ["metric", "value [95%]"]
        )

    def _sections(self) -> Iterator[tuple[str, list[MetricRow]]]:
        for benchmark, split in dict.fromkeys((row.benchmark, row.split) for row in self.rows):
            heading = benchmark.upper() + (f" {split}" if split else "")
            yield heading, [row for row in self.rows if (row.benchmark, row.split) == (benchmark, split)]

    def _cells(self, row: MetricRow) -> list[str]:
        name = row.shown + ARROWS[row.better]
        if not self.compared:
            return [name, shown_estimate(row.after, row.percent)]
        known = row.change is not None and row.defined
        change = _signed(row.change, row.percent) if row.change is not None and known else ""
        return [
            name,
            "" if row.before is None else shown_estimate(row.before, row.percent),
            shown_estimate(row.after, row.percent),
            change,
            _test(row, row.change) if row.change is not None and known else "",
        ]

    def _meanings(self) -> list[str]:
        """The meaning of each metric, once a benchmark."""
        told = {(row.benchmark, row.shown): row.meaning for row in self.rows if row.meaning}
        return [f"{benchmark.upper()} {name}: {meaning}" for (benchmark, name), meaning in told.items()]

    def _category_lines(self) -> list[str]:
        """The categories as a Markdown table, those with the clearest change first."""
        if not self.categories:
            return []
        header = ["category", "questions", "right before [95%]", "right after [95%]", "fixed", "broken", "p", "q"]
        keep = range(len(header)) if self.compared else (0, 1, 3)
        table = [header, ["---"] * len(header)]
        for c in sorted(self.categories, key=lambda c: (c.q if c.q is not None else 1.0, -c.questions)):
            before = "" if c.before is None else shown_estimate(c.before, True)
            tests = ["" if value is None else _p(value) for value in (c.p, c.q)]
            changed = ["" if value is None else f"{value}" for value in (c.fixed, c.broken)]
            name = f"{c.benchmark.upper()} {c.name}"
            table.append([name, f"{c.questions:,}", before, shown_estimate(c.after, True), *changed, *tests])
        rows = ["| " + " | ".join(row[column] for column in keep) + " |" for row in table]
        return ["", "## By category", "", *rows]

    def _count_lines(self) -> list[str]:
        lines = []
        for c in self.counts:
            state = f", {c.state}" if self.compared else ""
            unread = "" if c.unparsed is None else f"{c.unparsed:,} unparsed, "
            close = "" if c.near_ties is None else f", {c.near_ties:,} near-ties"
            where = c.benchmark.upper() + (f" {c.split}" if c.split else "")
            lines.append(
                f"{where}{state}: {c.questions:,} answers on {c.images:,} images, {unread}{c.truncated:,} truncated"
                + close
            )
        if self.quarantined:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.quarantined.items())
            lines.append(f"images left out: {sum(self.quarantined.values())} ({reasons}); see rejects.jsonl")
        return lines


def table_width(table: Table) -> int:
    """Columns that a table takes where it has all the room it wants; its title may wrap."""
    title, table.title = table.title, None
    wanted = Console(width=10_000).measure(table).maximum
    table.title = title
    return wanted


def shown_estimate(estimate: Estimate, percent: bool) -> str:
    """A value with its interval, or `undefined`."""
    if not estimate.defined:
        return "undefined"
    return f"{number(estimate.value, percent)} [{number(estimate.low, percent)}, {number(estimate.high, percent)}]"


def _signed(change: Change, percent: bool) -> str:
    value, low, high = (_sign(number(bound, percent)) for bound in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"


def _sign(text: str) -> str:
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _test(row: MetricRow, change: Change) -> str:
    """p, and in brackets q and, where p shows no difference, the smallest one that would show."""
    notes = [] if change.q is None else [f"q {_p(change.q)}"]
    if change.p >= SIGNIFICANT and row.better != "neither" and change.detectable is not None:
        notes.append(f"≥{number(change.detectable, row.percent)}")
    return _p(change.p) + (f" [{', '.join(notes)}]" if notes else "")


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
