"""Steps applied to a table one after another. Pure: the same table, steps and seed give the same decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpo.errors import UserError
from mmpo.select.margins import Mask, Numbers, Places, best
from mmpo.select.registry import Choice, ScoreGap, SelectorSettings
from mmpo.select.settings import CommonSelectSettings, PairMeans, SelectStep, StepReport
from mmpo.select.table import LOGPS, POLICY, REFERENCE, SCORES, TOKENS, WORDS, PairTable


@dataclass(frozen=True)
class Decision:
    """Where n pairs went. `kept`: their places in the order in which they are written. `code` [n] is -1 for those, else
    a place in `reasons`, (step, reason). `columns` [n] are new scores, NaN where a pair has none; `stage` [n] that of a
    curriculum."""

    kept: Places
    code: Places
    reasons: Sequence[tuple[str, str]]
    columns: Mapping[str, Numbers]
    stage: Places | None
    reports: Sequence[StepReport]
    before: PairMeans
    after: PairMeans


def decide(settings: CommonSelectSettings, table: PairTable) -> Decision:
    """The decision about every pair of the table. Raises `UserError` where a selector can't work on it."""
    run = _Run(settings, table)
    labels: set[str] = set()
    for step in settings.steps():
        label = step.name
        while label in labels:  # the same selector twice
            label = f"{step.name}_{len(labels) + 1}"
        labels.add(label)
        run.apply(step, label)
    gaps = run.gaps
    after = means(table.take(run.alive), gaps)
    return Decision(
        run.in_order(), run.code, run.reasons, run.columns, run.stage, run.reports, means(table, gaps), after
    )


def means(table: PairTable, gaps: Sequence[ScoreGap]) -> PairMeans:
    """Mean lengths, and mean margins by what the table has: of scores, implicit, of the reference."""
    margins: dict[str, Numbers] = {}
    for gap in gaps:
        if table.has(gap.columns()):
            margins[gap.label] = gap.of(table)
    if table.has((*POLICY, *REFERENCE)):
        margins["implicit"] = table.implicit()
        if table.has(TOKENS):
            margins["implicit by token"] = table.implicit(average=True)
    if table.has((*REFERENCE, *TOKENS)):
        margins["reference by token"] = table.reference_gap()
    chosen, rejected = (_mean(table[name]) for name in WORDS)
    return PairMeans(
        pairs=table.n,
        chosen_words=chosen,
        rejected_words=rejected,
        length_difference=None if chosen is None or rejected is None else chosen - rejected,
        margins={name: _mean(values) for name, values in margins.items()},
    )


def _mean(values: Numbers) -> float | None:
    """Over what is a number; None for none."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


class _Run:
    """The pairs that are left while steps are applied."""

    def __init__(self, settings: CommonSelectSettings, table: PairTable) -> None:
        self.settings, self.table = settings, table
        self.alive: Places = np.arange(table.n)
        self.code: Places = np.full(table.n, -1, dtype=np.int64)
        self.reasons: list[tuple[str, str]] = []
        self.columns: dict[str, Numbers] = {}
        self.stage: Places | None = None
        self.reports: list[StepReport] = []
        found = {gap.label: gap for step in settings.steps() for gap in step.selector.gaps()}
        self.gaps = list(found.values())

    def apply(self, step: SelectStep, label: str) -> None:
        selector = step.selector
        before, came = means(self.table.take(self.alive), self.gaps), len(self.alive)
        dropped: dict[str, int] = {}
        if not selector.abstains:
            self._drop_incomplete(selector, label, dropped)
        view = self.table.take(self.alive)
        choice = selector.choose(view, self.settings.seed)
        self._check(step, choice, view.n)
        kept = np.ones(view.n, dtype=np.bool_)
        for reason, mask in choice.dropped.items():
            self._note(self.alive[mask & kept], label, reason, dropped)
            kept &= ~mask
        for name, values in choice.columns.items():
            column = self.columns.setdefault(name, np.full(self.table.n, np.nan))
            column[self.alive] = values
        if choice.stages is not None:
            self.stage = np.full(self.table.n, -1, dtype=np.int64)
            self.stage[self.alive] = choice.stages
        self.alive = self.alive[kept]
        if choice.values is not None:
            top = best(choice.values[kept], self.settings.keep_of(step))
            self._note(self.alive[~top], label, "below", dropped)
            self.alive = self.alive[top]
        self.reports.append(
            StepReport(
                step=label,
                pairs_in=came,
                kept=len(self.alive),
                dropped=dropped,
                figures={name: float(value) for name, value in choice.figures.items()},
                before=before,
                after=means(self.table.take(self.alive), self.gaps),
            )
        )

    def in_order(self) -> Places:
        """The places of what is kept: as in the folder, or stage by stage, in random order within a stage."""
        if self.stage is None:
            return self.alive
        key = np.random.default_rng(self.settings.seed).random(self.table.n)[self.alive]
        return self.alive[np.lexsort((key, self.stage[self.alive]))]

    def _drop_incomplete(self, selector: SelectorSettings, label: str, dropped: dict[str, int]) -> None:
        """Drop pairs without a number that the selector reads."""
        for name in selector.reads():
            if name == "prompt":
                continue
            lacking = self.alive[~np.isfinite(self.table[name][self.alive])]
            if not len(lacking):
                continue
            if name in LOGPS and self.table.unscored is not None:
                for why in np.unique(self.table.unscored[lacking]):
                    reason = "not_finite" if why < 0 else self.table.reasons[why]
                    self._note(lacking[self.table.unscored[lacking] == why], label, reason, dropped)
            else:
                self._note(lacking, label, f"no_{name.removeprefix(SCORES)}", dropped)
            self.alive = self.alive[self.code[self.alive] < 0]

    def _note(self, places: Places, label: str, reason: str, dropped: dict[str, int]) -> None:
        if not len(places):
            return
        if (label, reason) not in self.reasons:
            self.reasons.append((label, reason))
        self.code[places] = self.reasons.index((label, reason))
        dropped[reason] = dropped.get(reason, 0) + len(places)

    def _check(self, step: SelectStep, choice: Choice, n: int) -> None:
        """Raises `UserError` for a choice that a selector (of a plug-in, say) must not make."""

        def array(what: str, values: Numbers | Mask | Places) -> None:
            if np.shape(values) != (n,):
                raise UserError(f"the selector {step.name} gave {what} of shape {np.shape(values)} for {n} pairs")

        for reason, mask in choice.dropped.items():
            array(f"`dropped[{reason}]`", mask)
            if mask.dtype != np.bool_:
                raise UserError(f"the selector {step.name}: `dropped[{reason}]` must be true or false for each pair")
        for name, values in choice.columns.items():
            array(f"`columns[{name}]`", values)
        if (choice.values is not None) != step.selector.ranks or (choice.stages is not None) != step.selector.orders:
            raise UserError(f"the selector {step.name} gives values or stages, and says otherwise (ranks, orders)")
        if choice.values is not None:
            array("`values`", choice.values)
            if not np.isfinite(choice.values).all():
                raise UserError(f"the selector {step.name} ranks pairs by numbers that are none (NaN, infinity)")
        if choice.stages is not None:
            array("`stages`", choice.stages)
