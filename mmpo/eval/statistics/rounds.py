"""Several rounds of training side by side: every metric of the first model and of each round, all on the same pictures,
and whether a further round is worth it.

Each round is a scorecard; its "before" is the first model.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from mmpo.errors import UserError
from mmpo.eval.statistics.rows import Change, Estimate, FrozenRecord, MetricRow, number
from mmpo.eval.statistics.scorecard import ARROWS, Scorecard, shown_estimate
from mmpo.eval.statistics.tally import Direction
from mmpo.eval.stopping import WATCHED, StopSettings, metric_key

FIRST = "base"
ROUNDING = 1e-9
"""A change that is as large as allowed but for the rounding of floats counts as allowed."""


class MetricInRounds(FrozenRecord):
    """A metric of every model in turn. `changes`: each round against the first model, paired by image; None for the
    first model and where it was not asked."""

    benchmark: str
    split: str | None
    metric: str
    label: str
    better: Direction
    percent: bool
    values: list[Estimate]
    changes: list[Change | None]

    @property
    def place(self) -> str:
        """`BENCHMARK.METRIC`, with a split between them where it has one."""
        return ".".join(filter(None, (self.benchmark, self.split, self.metric)))


class RoundsTable(FrozenRecord):
    """The rounds of a run. `models` are the columns: `base`, `round 1` …; `findings` a line about each round;
    `stopped` why no further round is worth it (None: nothing speaks against one)."""

    models: list[str]
    rows: list[MetricInRounds]
    findings: list[str] = Field(description="What was watched, round by round.")
    stopped: str | None

    @classmethod
    def of(cls, cards: Sequence[Scorecard], stop: StopSettings | None) -> RoundsTable:
        """The table of the scorecards of rounds 1, 2, …. Raises UserError where they do not measure the same, or where
        `stop` names a metric that is not measured."""
        rows = [_row(cards, first) for first in cards[0].rows]
        compared = cards[0].compared
        models = [*([FIRST] if compared else []), *(f"round {n + 1}" for n in range(len(cards)))]
        if stop is None:
            return cls(models=models, rows=rows, findings=[], stopped=None)
        watched = {kind: _watched(rows, kind, getattr(stop, kind)) for kind in WATCHED}
        findings: list[str] = []
        reason: str | None = None
        for column in range(1 if compared else 0, len(models)):
            said, reason = _judged(watched, stop, column)
            findings.append(f"{models[column]}: {'; '.join(said)}")
        return cls(models=models, rows=rows, findings=findings, stopped=reason)

    def to_markdown(self) -> str:
        """The table as a Markdown page."""
        header = ["metric", *(f"{model} [95%]" for model in self.models)]
        lines = ["# Rounds", "", f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
        for row in self.rows:
            lines.append(f"| {' | '.join([self._name(row), *self._cells(row, changes=True)])} |")
        if self.findings:
            lines += ["", *(f"- {finding}" for finding in self.findings)]
        if self.stopped:
            lines += ["", f"No further round: {self.stopped}."]
        lines += [
            "",
            "All on the same pictures. After a semicolon: difference from the first model, paired by image, with p. "
            "Every round's own scorecard is in its folder `eval-NUMBER`.",
        ]
        return "\n".join(lines) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
        table.add_column("metric", overflow="fold")
        for model in self.models:
            table.add_column(f"{model}\n[95%]".replace("[", "\\["), justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(Text(self._name(row)), *(Text(cell.replace(" [", "\n[")) for cell in self._cells(row)))
        yield table
        for finding in self.findings:
            yield Text(f"  {finding}", overflow="fold")
        if self.stopped:
            yield Text(f"  no further round: {self.stopped}", style="bold", overflow="fold")

    @staticmethod
    def _name(row: MetricInRounds) -> str:
        return " ".join(filter(None, (row.benchmark.upper(), row.split, row.label or row.metric))) + ARROWS[row.better]

    @staticmethod
    def _cells(row: MetricInRounds, *, changes: bool = False) -> list[str]:
        cells = []
        for value, change in zip(row.values, row.changes, strict=True):
            cell = shown_estimate(value, row.percent)
            if changes and change is not None and value.defined:
                p = "<0.001" if change.p < 0.001 else f"{change.p:.3f}"
                cell += f"; {100 * change.value:+.1f}" if row.percent else f"; {change.value:+.2f}"
                cell += f", p {p}"
            cells.append(cell)
        return cells


def _row(cards: Sequence[Scorecard], first: MetricRow) -> MetricInRounds:
    try:
        found = [card.row(first.benchmark, first.metric, first.split) for card in cards]
    except KeyError as error:
        raise UserError(f"the rounds were not measured alike: {error.args[0]}") from None
    before = [] if first.before is None else [first.before]
    return MetricInRounds(
        benchmark=first.benchmark,
        split=first.split,
        metric=first.metric,
        label=first.label,
        better=first.better,
        percent=first.percent,
        values=[*before, *(row.after for row in found)],
        changes=[*(None for _ in before), *(row.change for row in found)],
    )


def _watched(rows: Sequence[MetricInRounds], kind: str, name: str | None) -> MetricInRounds | None:
    """The row that stands for `wrong`, `recall` or `words`; None where the recipe names none and none is known."""
    by_name = {(row.benchmark, row.split, row.metric): row for row in rows}
    if name is None:
        return next((by_name[key] for known in WATCHED[kind] if (key := metric_key(known)) in by_name), None)
    if (row := by_name.get(metric_key(name))) is None:
        have = ", ".join(dict.fromkeys(one.place for one in rows))
        raise UserError(f"rounds.stop.{kind}: {name} is not measured", hint=f"measured are {have}")
    if row.better == {"wrong": "higher", "recall": "lower"}.get(kind):
        good = "lower" if kind == "wrong" else "higher"
        raise UserError(f"rounds.stop.{kind}: {name} is better when {row.better}", hint=f"name one that is best {good}")
    return row


def _judged(watched: dict[str, MetricInRounds | None], stop: StopSettings, column: int) -> tuple[list[str], str | None]:
    """What became of the watched metrics in the model of a column, and the first reason to stop there."""
    said: list[str] = []
    reasons: list[str] = []
    for kind, row in watched.items():
        if row is None or column == 0:
            continue
        now, first = row.values[column], row.values[0]
        base = row.values[column - 1] if kind == "wrong" else first
        name = f"{row.place} {number(base.value, row.percent)} → {number(now.value, row.percent)}"
        if not now.defined:
            said.append(f"{row.place} undefined")
            reasons.append(f"{row.place} is undefined: there was nothing to count")
            continue
        if not base.defined:
            said.append(f"{row.place} {number(now.value, row.percent)}, undefined before")
            continue
        said.append(name)
        if kind == "wrong" and (base.value - now.value + ROUNDING < stop.least_fall * base.value or base.value == 0):
            reasons.append(f"{name} since the model before, which is no fall by {_percent(stop.least_fall)} of itself")
        elif kind == "recall" and base.value - now.value - ROUNDING > stop.most_lost:
            reasons.append(f"{name} since the first model, a loss of more than {number(stop.most_lost, row.percent)}")
        elif kind == "words" and abs(now.value - base.value) - ROUNDING > stop.most_changed * base.value:
            reasons.append(f"{name} since the first model, a change by more than {_percent(stop.most_changed)}")
    return said or ["nothing to compare with"], reasons[0] if reasons else None


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
