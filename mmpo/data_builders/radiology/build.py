"""Pairs of radiology reports. Beside what every build leaves behind (`mmpo.data_builders.run`):

run_dir/
  held_out/              pairs of the held-out patients
  unedited/              reports without any reference, to be learnt as they are
  replies.editor.jsonl   what a model that edits replied; never asked again
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.data.pair import PreferencePair
from mmpo.data_builders.radiology.builder import RadiologyBuilder
from mmpo.data_builders.radiology.settings import EditorSettings, RadiologyBuildResult, RadiologySettings
from mmpo.data_builders.radiology.unedited import FILE, FOLDER, write_unedited
from mmpo.data_builders.run import Builder, Written
from mmpo.data_builders.units import Advance, Units, Work, ordered, pair_of_row
from mmpo.errors import Quarantined, UserError
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import Annotator, RuleEditor
from mmpo.radiology.films import film
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.privacy import check_endpoint
from mmpo.radiology.reports import RadiologyReport, Rejected, read_reports

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

Report = RadiologyReport | Rejected
HELD_OUT = "held_out"


class RadiologyPairs(Builder[RadiologySettings, Report, RadiologyBuildResult]):
    """Pairs against references to earlier exams that are not there (after Banerjee et al. 2024)."""

    result = RadiologyBuildResult
    label = "taking references out of reports"
    title = "Reports with and without references to earlier exams"

    @property
    def folders(self) -> tuple[str, ...]:
        return ("pairs", HELD_OUT) if self.settings.held_out_share else ("pairs",)

    def plan(self) -> Sequence[Report]:
        settings = self.settings
        self.reports = list(read_reports(settings.reports, images=settings.images))[: settings.limit]
        if not self.reports:
            raise UserError(f"{settings.reports}: no reports in it")
        marked = any(isinstance(one, RadiologyReport) and one.credentialed for one in self.reports)
        own = None if settings.sampler is None else settings.sampler.chat(settings.sampler.model)
        for chat in (settings.editor.model, own):
            check_endpoint(chat, settings.credentialed or marked)
        return self.reports

    def source(self) -> dict[str, Any]:
        return super().source() | {"reports read": _digest(self.reports)}

    def open(self, stack: ExitStack) -> Work[Report]:
        settings = self.settings
        detector = RuleDetector(load_lexicon(*([settings.lexicon] if settings.lexicon else [])))
        editor: Annotator = RuleEditor(detector)
        if settings.editor.by == "model":
            editor = _judge(settings.editor, self.run_dir, stack)
        engine: Answerer | None = None
        if "model" in settings.sources:
            from mmpo.data_builders.models import open_answerer

            assert settings.model is not None
            engine = open_answerer(settings.model, settings, self.run_dir, stack)
        builder = RadiologyBuilder(settings, detector, editor, engine)

        def work(number: int, part: Sequence[Report], advance: Advance) -> dict[str, Any]:
            outcomes, tally = builder.build(part)
            advance(len(part))
            return {"editor": editor.identity, "tally": vars(tally), "outcomes": outcomes}

        return work

    def pairs(self, source: Report, outcome: Mapping[str, Any], units: Units[Report]) -> list[PreferencePair]:
        if not outcome["pairs"]:
            raise Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
        assert isinstance(source, RadiologyReport)
        picture = film(source.images[0], root=source.root)  # Quarantined, if it is gone since the unit was made
        return [pair_of_row(row, picture) for row in outcome["pairs"]]

    def folder_of(self, source: Report) -> str:
        """Decided by the patient (or report) and the seed alone."""
        name = (source.patient or source.id) if isinstance(source, RadiologyReport) else source.id
        drawn = int(hashlib.sha256(f"{self.settings.seed}/split/{name}".encode()).hexdigest()[:12], 16) / 16**12
        return HELD_OUT if drawn < self.settings.held_out_share else "pairs"

    def summary(self, units: Units[Report], written: Written) -> RadiologyBuildResult:
        total = units.tally
        tables = {
            "reports": ordered(written.table),
            "texts": ordered(total["texts"]),
            "lines": ordered(total["lines"], first=("in",)),
        }
        if self.settings.sft_share:
            found = (
                (source, outcome["unedited"])
                for source, outcome in units.outcomes()
                if isinstance(source, RadiologyReport) and "unedited" in outcome and self.folder_of(source) != HELD_OUT
            )
            tables[FOLDER] = write_unedited(self.run_dir / FOLDER, found, self.settings.sft_share, self.settings.seed)
        totals, paired = total["totals"], tables["texts"]["paired"]
        read = totals["texts_read"] + tables["texts"].get("no_reference", 0)
        return RadiologyBuildResult(
            pairs="pairs",
            held_out=HELD_OUT if self.settings.held_out_share else None,
            unedited=f"{FOLDER}/{FILE}" if tables.get(FOLDER, {}).get("kept") else None,
            images=written.table["in"],
            images_used=written.table["paired"],
            pairs_made=paired,
            editor=", ".join(sorted({unit["editor"] for unit in units.facts})),
            counts=tables,
            lines_with_priors=round(totals["lines_with_priors"] / read, 4) if read else 0.0,
            chosen_words=round(totals["chosen_words"] / paired, 4) if paired else 0.0,
            rejected_words=round(totals["rejected_words"] / paired, 4) if paired else 0.0,
        )


def _judge(editor: EditorSettings, run_dir: Path, stack: ExitStack) -> Annotator:
    from mmpo.chat import open_chat
    from mmpo.radiology.judge import JudgeAnnotator

    assert editor.model is not None
    chat = stack.enter_context(open_chat(editor.model, run_dir / "replies.editor.jsonl"))
    return JudgeAnnotator(chat, template=editor.template, tries=editor.tries)


def _digest(sources: Sequence[Report]) -> str:
    state = hashlib.sha256()
    for one in sources:
        state.update(repr((one.id, one.text, one.images) if isinstance(one, RadiologyReport) else one.id).encode())
    return state.hexdigest()[:16]
