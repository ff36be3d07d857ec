"""Drift and ability in a scorecard: what no benchmark asks for, and what of it looks as if the model got worse."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmpo.eval.statistics.rows import FrozenRecord, number

TITLE = "Drift and ability"
SIGNIFICANT = 0.05
MOST_SIGNS = 4
"""Signs that the sentence on top names; the table has all."""


class Reading(FrozenRecord):
    """A number with its 95% interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


class DriftRow(FrozenRecord):
    """One check. `of` is the benchmark whose answers it is about, None for the shipped prompts and texts. `before` is
    None where there is one number for both models (a divergence), or where one model alone was asked; `ratio` is after
    / before where that is what is judged. `sign` says in words what is wrong, empty within the `limit` (None: not
    judged). `brief` rows are on the screen, the others in the file.
    """

    metric: str
    of: str | None = None
    label: str
    meaning: str = ""
    percent: bool = False
    before: Reading | None = None
    after: Reading
    change: Reading | None = None
    p: float | None = None
    ratio: Reading | None = None
    limit: str | None = None
    sign: str = ""
    brief: bool = False

    @property
    def shown(self) -> str:
        """The check's name in tables."""
        return f"{self.of.upper()} {self.label}" if self.of else self.label

    @property
    def moved(self) -> str:
        """Before and after, or the one number there is."""
        after = self._text(self.after)
        return f"{self._text(self.before)} → {after}" if self.before is not None else after

    def cells(self, *, intervals: bool) -> list[str]:
        """Name, before, after, what changed, and the limit."""
        changed = ""
        if self.ratio is not None:
            changed = f"×{self.ratio.value:.2f}" + (_interval(self.ratio, "{:.2f}") if intervals else "")
        elif self.change is not None:
            changed = _signed(self._text(self.change))
            if intervals and self.change.low is not None and self.change.high is not None:
                low, high = (_signed(self._text(Reading(value=bound))) for bound in (self.change.low, self.change.high))
                changed += f" [{low}, {high}]"
        before = "" if self.before is None else self._text(self.before)
        return [self.shown, before, self._text(self.after), changed, self.limit or ""]

    def _text(self, reading: Reading) -> str:
        if not self.percent and 0 < abs(reading.value) < 0.1:
            return f"{reading.value:.4f}"
        if abs(reading.value) >= 10_000:  # a model of a small world, asked about ours
            return f"{reading.value:.3g}"
        return number(reading.value, self.percent)


class Unmeasured(FrozenRecord):
    """A part of drift that was not measured, and why."""

    what: str
    why: str


class Drift(FrozenRecord):
    """All that was looked at beside the benchmarks. `prompts` are the ids of the shipped prompts with the pictures
    shown, `texts` those of the fixed texts; `notes` say how the numbers were made.
    """

    rows: list[DriftRow] = Field(default_factory=list)
    unmeasured: list[Unmeasured] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)
    texts: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def row(self, metric: str, of: str | None = None) -> DriftRow:
        """The row of a check. Raises KeyError where there is none."""
        for row in self.rows:
            if (row.metric, row.of) == (metric, of):
                return row
        raise KeyError(f"no {of or ''} {metric} in this scorecard's drift")

    @property
    def signs(self) -> list[DriftRow]:
        """The rows beyond their limits."""
        return [row for row in self.rows if row.sign]

    def sentence(self) -> str:
        """A line for the top of a scorecard: whether the model got worse at something else."""
        judged = sum(row.limit is not None for row in self.rows)
        lacking = f"; not measured: {', '.join(one.what for one in self.unmeasured)}" if self.unmeasured else ""
        if not judged:
            return f"Other abilities: not looked at{lacking}"
        if not self.signs:
            return f"Other abilities: no sign of harm in {judged} checks{lacking}"
        shown: dict[str, list[str]] = {}
        for row in self.signs:
            shown.setdefault(row.sign, []).append(f"{row.shown} {row.moved}{_doubt(row)}")
        told = [f"{sign} ({'; '.join(rows)})" for sign, rows in list(shown.items())[:MOST_SIGNS]]
        more = f"; and {len(shown) - MOST_SIGNS} more" if len(shown) > MOST_SIGNS else ""
        return f"Other abilities: {len(self.signs)} of {judged} checks warn: {'; '.join(told)}{more}{lacking}"

    def screen_rows(self) -> list[DriftRow]:
        """The brief rows and those beyond their limits."""
        return [row for row in self.rows if row.brief or row.sign]

    def table(self) -> Table:
        """`screen_rows` as a table; those beyond their limits are red."""
        table = Table(header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
        rows = self.screen_rows()
        for place, name in enumerate(self._header()):
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in self._of(row, False)), style="red" if row.sign else None)
        return table

    def lines(self) -> list[str]:
        """`screen_rows` as lines, for a terminal in which the table does not fit."""
        lines = [TITLE.upper()]
        for row in self.screen_rows():
            name, *cells = self._of(row, False)
            named = zip(self._header()[1:], cells, strict=True)
            lines.append(f"  {name}: {', '.join(f'{title} {cell}' for title, cell in named if cell)}")
        return lines

    def lacking(self) -> list[str]:
        """A line for each part that was not measured."""
        return [f"not measured: {one.what}: {one.why}" for one in self.unmeasured]

    def to_markdown(self) -> list[str]:
        """The whole section as lines of a Markdown page."""
        lines = ["", f"## {TITLE}", *(["", self.sentence()] if self._compared else [])]
        if self.rows:
            header = [name if name != TITLE.upper() else "check" for name in self._header()]
            lines += ["", f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
            lines += [
                "| " + " | ".join(f"**{cell}**" if row.sign and cell else cell for cell in self._of(row, True)) + " |"
                for row in self.rows
            ]
            lines += ["", *(f"- {row.shown}: {row.sign}" for row in self.signs)]
        told = {row.label: row.meaning for row in self.rows if row.meaning}
        notes = [*self.lacking(), *self.notes, *(f"{label}: {meaning}" for label, meaning in told.items())]
        if self.prompts:
            notes.append(f"prompts: {', '.join(self.prompts)}")
        if self.texts:
            notes.append(f"texts: {_folded(self.texts)}")
        return [*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]

    @property
    def _compared(self) -> bool:
        return any(row.limit is not None for row in self.rows)

    def _header(self) -> list[str]:
        names = [TITLE.upper(), "before", "after", "change", "warns"]
        return names if self._compared else [TITLE.upper(), "value"]

    def _of(self, row: DriftRow, intervals: bool) -> list[str]:
        cells = row.cells(intervals=intervals)
        return cells if self._compared else [cells[0], cells[2]]


def _doubt(row: DriftRow) -> str:
    return f", p = {row.p:.2f}" if row.p is not None and row.p >= SIGNIFICANT else ""


def _interval(reading: Reading, form: str) -> str:
    if reading.low is None or reading.high is None:
        return ""
    return f" [{form.format(reading.low)}, {form.format(reading.high)}]"


def _signed(text: str) -> str:
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _folded(names: Sequence[str]) -> str:
    """The first and last of each stretch of ids that differ in their last number alone."""
    stretches: list[list[str]] = []
    for name in names:
        stem, _, last = name.rpartition("-")
        before = stretches[-1][-1].rpartition("-") if stretches else ("", "", "")
        if last.isdigit() and before[2].isdigit() and stem == before[0] and int(last) == int(before[2]) + 1:
            stretches[-1].append(name)
        else:
            stretches.append([name])
    return ", ".join(one[0] if len(one) == 1 else f"{one[0]} … {one[-1]}" for one in stretches)
