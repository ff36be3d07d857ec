"""Pairs against hallucinated earlier exams: a text with references to them is rejected, the same one without is chosen.

    reports, films ──▶ texts (as dictated, as the model writes, injected) ──▶ edit ──▶ filters ──▶ pairs with spans

After Banerjee et al. 2024 (arXiv 2406.06496).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mmpo
from mmpo.data.pair import placeholder_in
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.errors import Quarantined
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import Annotator, Edited, edit_report
from mmpo.radiology.films import film
from mmpo.radiology.injecting import inject
from mmpo.radiology.lines import split_lines
from mmpo.radiology.masks import relevant_spans, weight_spans
from mmpo.radiology.reports import RadiologyReport, Rejected

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer


@dataclass
class RadiologyCounts:
    """Counts of what came in and where it went. In each table the other entries together add up to `in`."""

    texts: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)


@dataclass
class _Source:
    report: RadiologyReport
    picture: bytes
    prompt: str
    texts: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(kind, rejected text, chosen text where it is known)."""
    unedited: str = ""
    """The report's own text, where nothing in it had to be edited."""


class RadiologyBuilder:
    """Pairs of one set of settings. `engine` is there where the model's own reports are wanted."""

    def __init__(
        self, settings: RadiologySettings, detector: RuleDetector, editor: Annotator, engine: Answerer | None
    ) -> None:
        self.settings, self.detector, self.editor, self.engine = settings, detector, editor, engine

    def build(self, sources: Sequence[RadiologyReport | Rejected]) -> tuple[list[dict[str, Any]], RadiologyCounts]:
        """One unit: a row for each source, in order, and the account of what was tried."""
        tally = RadiologyCounts()
        opened = [self._open(one) for one in sources]
        self._write_reports([one for one in opened if isinstance(one, _Source)])
        rows: list[dict[str, Any]] = []
        for one in opened:
            if isinstance(one, Quarantined):
                rows.append({"pairs": [], "stage": one.stage, "reason": one.reason, "detail": one.detail})
                continue
            pairs, last = self._pairs(one, tally)
            row: dict[str, Any] = {"pairs": pairs, "stage": "filter", "reason": "" if pairs else last, "detail": ""}
            if one.unedited and self.settings.sft_share:
                row["unedited"] = {"prompt": one.prompt, "text": one.unedited}
            rows.append(row)
        return rows, tally

    def _open(self, source: RadiologyReport | Rejected) -> _Source | Quarantined:
        if isinstance(source, Rejected):
            return source.error
        if source.has_prior:
            return Quarantined("filter", "has_prior", "an earlier exam is given, so references to it are no mistakes")
        if not source.images:
            return Quarantined("read", "no_image", source.id)
        body = reflow(source.body(self.settings.section))
        wants_text = set(self.settings.sources) & {"reports", "injected"}
        if wants_text and not body:
            return Quarantined("read", "no_section", f"no {self.settings.section}")
        try:
            picture = film(source.images[0], root=source.root)
        except Quarantined as error:
            return error
        prompt = random.Random(f"{self.settings.seed}/prompt/{source.id}").choice(self.settings.prompts)
        found = _Source(source, picture, prompt)
        if "reports" in self.settings.sources:
            found.texts.append(("report", body, None))
        if "injected" in self.settings.sources and not self.detector.flags(body):
            injected = inject(body, random.Random(f"{self.settings.seed}/inject/{source.id}"), self.detector)
            if injected is not None:
                found.texts.append(("injected", injected, body))
        return found

    def _write_reports(self, sources: Sequence[_Source]) -> None:
        """Greedy and sampled reports of the model."""
        if self.engine is None or not sources:
            return
        from mmpo.models.generation.answer import Question

        limit, count = self.settings.max_new_tokens, self.settings.samples_per_image
        asked = [Question(one.report.id, one.picture, one.prompt) for one in sources]
        said = [[answer] for answer in self.engine.answer(asked, max_new_tokens=limit)]
        if count:
            sampled = self.engine.sample_many(
                [(one.picture, one.prompt) for one in sources],
                count,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                seed=self.settings.seed,
                max_new_tokens=limit,
            )
            for first, more in zip(said, sampled, strict=True):
                first.extend(more)
        for one, answers in zip(sources, said, strict=True):
            for answer in answers:
                text = reflow(answer.text)
                one.texts.append(("model", whole_sentences(text) if answer.truncated else text, None))

    def _pairs(self, source: _Source, tally: RadiologyCounts) -> tuple[list[dict[str, Any]], str]:
        pairs: list[dict[str, Any]] = []
        seen: set[str] = set()
        last = "no_text"
        for number, (kind, rejected, chosen) in enumerate(source.texts):
            tally.texts["in"] += 1
            made = (
                "duplicate"
                if rejected in seen
                else self._pair(source, f"{kind[0]}{number}", kind, rejected, chosen, tally)
            )
            seen.add(rejected)
            if isinstance(made, str):
                tally.texts[made] += 1
                last = made
                if made == "no_reference" and kind == "report" and not placeholder_in(rejected):
                    source.unedited = rejected
            else:
                tally.texts["paired"] += 1
                tally.totals["chosen_words"] += len(made["chosen"].split())
                tally.totals["rejected_words"] += len(made["rejected"].split())
                pairs.append(made)
        return pairs, last

    def _pair(
        self, source: _Source, suffix: str, kind: str, rejected: str, chosen: str | None, tally: RadiologyCounts
    ) -> dict[str, Any] | str:
        """A row, or the reason why there is none."""
        if not rejected:
            return "empty"
        lines: list[dict[str, str]] = []
        if chosen is None:
            try:
                edited = edit_report(rejected, self.editor)
            except Quarantined as error:
                return error.reason
            self._count_lines(edited, tally)
            if not edited.changed:
                return "no_reference"
            chosen = edited.text
            lines = [{"label": edit.label, "edit": edit.edit} for _, edit in edited.lines]
        else:
            tally.lines["in"] += (flagged := len(self.detector.report(rejected).flagged))
            tally.lines["injected"] += flagged
        tally.totals["texts_read"] += 1
        reason = self._unfit(chosen, rejected)
        if reason is not None:
            return reason
        row: dict[str, Any] = {
            "id": f"{source.report.id}/{suffix}",
            "question": source.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "patient": source.report.patient,
            "provenance": {
                "builder": self.settings.builder,
                "version": mmpo.__version__,
                "source": source.report.id,
                "seed": self.settings.seed,
                "judge": self.editor.identity if kind != "injected" else "injected",
                "kind": kind,
                "section": self.settings.section,
                "lines": lines,
            },
        }
        if self.settings.weights:
            ours, theirs = relevant_spans(chosen, rejected, junction=self.settings.junction)
            row["chosen_weights"], row["rejected_weights"] = weight_spans(chosen, ours), weight_spans(rejected, theirs)
        return row

    def _count_lines(self, edited: Edited, tally: RadiologyCounts) -> None:
        tally.lines["in"] += len(edited.lines)
        for _, edit in edited.lines:
            done = {"none": "kept", "partial": "rewritten", "all": "dropped"}[edit.label]
            tally.lines[f"{done}: {edit.reason}" if edit.reason else done] += 1
        tally.totals["lines_with_priors"] += sum(edit.label != "none" for _, edit in edited.lines)

    def _unfit(self, chosen: str, rejected: str) -> str | None:
        """The name of the filter that a pair fails; None if it passes all."""
        if placeholder_in(chosen) or placeholder_in(rejected):
            return "image_tag"
        ours, theirs = len(chosen.split()), len(rejected.split())
        if ours < self.settings.min_words:
            return "too_little_left"
        if " ".join(chosen.split()) == " ".join(rejected.split()):
            return "equal"
        if self.detector.flags(chosen):
            return "still_a_reference"
        if ours > self.settings.max_length_ratio * theirs:
            return "longer_than_rejected"
        return "too_much_removed" if ours < (1 - self.settings.max_removed) * theirs else None


def reflow(text: str) -> str:
    """The text's sentences, one after another with a space between: hard-wrapped lines are joined."""
    return " ".join(" ".join(line.text.split()) for line in split_lines(text))


def whole_sentences(text: str) -> str:
    """Without an unfinished last sentence."""
    lines = [line.text for line in split_lines(text)]
    while lines and lines[-1][-1] not in ".!?":
        lines.pop()
    return " ".join(lines)
