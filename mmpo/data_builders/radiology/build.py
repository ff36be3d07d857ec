"""Pairs against hallucinated earlier exams: a text with references to them is rejected, the same one without is chosen.

    reports, films ──▶ texts (as dictated, as the model writes, injected) ──▶ edit ──▶ filters ──▶ pairs with spans

After Banerjee et al. 2024 (arXiv 2406.06496). A build goes in units like the others: killed and run again, it goes on
behind its last unit and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmpo
from mmpo.data.pair import placeholder_in
from mmpo.data.shards import PairWriter
from mmpo.data_builders.radiology.settings import EditorSettings, RadiologyBuildResult, RadiologySettings
from mmpo.data_builders.radiology.unedited import FILE, FOLDER, write_unedited
from mmpo.data_builders.units import (
    Advance,
    Work,
    add_up,
    check_source,
    check_sums,
    count_table,
    finish_units,
    ordered,
    pair_of_row,
    read_outcomes,
    read_unit,
)
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json, write_json
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.progress import task
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import Annotator, Edited, RuleEditor, edit_report
from mmpo.radiology.films import film
from mmpo.radiology.injecting import inject
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.lines import split_lines
from mmpo.radiology.masks import relevant_spans, weight_spans
from mmpo.radiology.privacy import check_endpoint
from mmpo.radiology.reports import RadiologyReport, Rejected, read_reports
from mmpo.resuming import deciding

if TYPE_CHECKING:
    from mmpo.models.generation.answer import AnswerEngine

logger = logging.getLogger("mmpo.build")
RESULT = "build_result.json"
TOKEN_BUDGET = 16384


@dataclass
class RadiologyCounts:
    """Where everything went. Each table has `in`, and as much in its other entries together."""

    texts: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)


@follows_links
@in_own_folder
def build(settings: RadiologySettings, run_dir: Path) -> RadiologyBuildResult:
    """Build the pairs of `settings` into `run_dir/pairs` (and `held_out`). A finished build returns its result.

    Raises UserError for settings that don't fit the files or what is in `run_dir`. Reports and films that can't be used
    end in `rejects.jsonl`.
    """
    run_dir = Path(run_dir)
    sources = list(read_reports(settings.reports, images=settings.images))[: settings.limit]
    if not sources:
        raise UserError(f"{settings.reports}: no reports in it")
    marked = any(isinstance(one, RadiologyReport) and one.credentialed for one in sources)
    check_endpoint(settings.editor.model, settings.credentialed or marked)
    recipe = deciding(settings)
    check_source(run_dir, {"settings": recipe, "mmpo": mmpo.__version__, "reports read": _digest(sources)})
    if (run_dir / RESULT).exists():
        return RadiologyBuildResult.model_validate(read_json(run_dir / RESULT))

    def begin(stack: ExitStack) -> Work[RadiologyReport | Rejected]:
        builder = open_builder(settings, run_dir, stack)

        def work(number: int, part: Sequence[RadiologyReport | Rejected], advance: Advance) -> dict[str, Any]:
            outcomes, tally = builder.build(part)
            advance(len(part))
            return {"editor": builder.editor.identity, "tally": vars(tally), "outcomes": outcomes}

        return work

    label = "taking references out of reports"
    paths = finish_units(run_dir / "units", sources, settings.shard_size, label, begin)
    result = _assemble(settings, recipe, run_dir, sources, paths)
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def open_builder(settings: RadiologySettings, run_dir: Path, stack: ExitStack) -> RadiologyBuilder:
    """The builder with its model and judge, which close with the stack."""
    detector = RuleDetector(load_lexicon(*([settings.lexicon] if settings.lexicon else [])))
    editor: Annotator = RuleEditor(detector)
    if settings.editor.by == "model":
        editor = _judge(settings.editor, run_dir, stack)
    engine: AnswerEngine | None = None
    if "model" in settings.sources:
        from mmpo.models.families.loading import load_vlm
        from mmpo.models.generation.answer import AnswerEngine

        assert settings.model is not None
        vlm = load_vlm(
            settings.model,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            allow_network=settings.allow_network,
        )
        engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens, token_budget=TOKEN_BUDGET)
    return RadiologyBuilder(settings, detector, editor, engine)


def _judge(editor: EditorSettings, run_dir: Path, stack: ExitStack) -> Annotator:
    from mmpo.chat import open_chat
    from mmpo.radiology.judge import JudgeAnnotator

    assert editor.model is not None
    chat = stack.enter_context(open_chat(editor.model, run_dir / "replies.editor.jsonl"))
    return JudgeAnnotator(chat, template=editor.template, tries=editor.tries)


def _digest(sources: Sequence[RadiologyReport | Rejected]) -> str:
    state = hashlib.sha256()
    for one in sources:
        state.update(repr((one.id, one.text, one.images) if isinstance(one, RadiologyReport) else one.id).encode())
    return state.hexdigest()[:16]


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
        self, settings: RadiologySettings, detector: RuleDetector, editor: Annotator, engine: AnswerEngine | None
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
        """Which filter a pair fails, if any."""
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


def held_out(settings: RadiologySettings, source: RadiologyReport | Rejected) -> bool:
    """Whether a source belongs to the held-out patients: decided by the patient (or report) and the seed alone."""
    name = (source.patient or source.id) if isinstance(source, RadiologyReport) else source.id
    drawn = int(hashlib.sha256(f"{settings.seed}/split/{name}".encode()).hexdigest()[:12], 16) / 16**12
    return drawn < settings.held_out_share


def _assemble(
    settings: RadiologySettings,
    recipe: dict[str, Any],
    run_dir: Path,
    sources: Sequence[RadiologyReport | Rejected],
    units: Sequence[Path],
) -> RadiologyBuildResult:
    total: dict[str, Counter[str]] = {}
    editors = set()
    for path in units:
        unit = read_unit(path)
        add_up(total, unit["tally"])
        editors.add(unit["editor"])
    writers = {False: PairWriter(run_dir / "pairs", recipe=recipe, scores=())}
    if settings.held_out_share:
        writers[True] = PairWriter(run_dir / "held_out", recipe=recipe, scores=())
    done = {side: writer.sources_done for side, writer in writers.items()}
    with task("writing pairs", total=len(sources)) as running:
        for source, outcome in zip(sources, read_outcomes(units), strict=True):
            side = held_out(settings, source)
            running.advance()
            if done[side]:  # written before this run was stopped
                done[side] -= 1
                continue
            _write(writers[side], source, outcome)
    counts = {"reports": Counter[str]({"in": len(sources)})}
    for writer in writers.values():
        counts["reports"]["paired"] += writer.counts.kept
        counts["reports"].update({key.replace("/", ": "): value for key, value in writer.counts.reasons.items()})
    tables = {name: ordered(table) for name, table in counts.items()}
    tables["texts"] = ordered(total.get("texts", {}))
    tables["lines"] = ordered(total.get("lines", {}), first=("in",))
    if settings.sft_share:
        found = (
            (source, outcome["unedited"])
            for source, outcome in zip(sources, read_outcomes(units), strict=True)
            if isinstance(source, RadiologyReport) and "unedited" in outcome and not held_out(settings, source)
        )
        tables[FOLDER] = write_unedited(run_dir / FOLDER, found, settings.sft_share, settings.seed)
    check_sums(tables)
    totals, paired = total.get("totals", Counter()), tables["texts"]["paired"]
    read = totals["texts_read"] + tables["texts"].get("no_reference", 0)
    result = RadiologyBuildResult(
        pairs="pairs",
        held_out="held_out" if settings.held_out_share else None,
        unedited=f"{FOLDER}/{FILE}" if tables.get(FOLDER, {}).get("kept") else None,
        images=len(sources),
        images_used=tables["reports"]["paired"],
        pairs_made=paired,
        editor=", ".join(sorted(editors)),
        counts=tables,
        lines_with_priors=round(totals["lines_with_priors"] / read, 4) if read else 0.0,
        chosen_words=round(totals["chosen_words"] / paired, 4) if paired else 0.0,
        rejected_words=round(totals["rejected_words"] / paired, 4) if paired else 0.0,
    )
    for writer in writers.values():
        writer.close(title="Reports with and without references to earlier exams", notes=count_table(tables))
    return result


def _write(writer: PairWriter, source: RadiologyReport | Rejected, outcome: dict[str, Any]) -> None:
    if not outcome["pairs"]:
        writer.reject(source.id, Quarantined(outcome["stage"], outcome["reason"], outcome["detail"]))
        return
    assert isinstance(source, RadiologyReport)
    try:
        picture = film(source.images[0], root=source.root)
    except Quarantined as error:  # it was there when the unit was made
        writer.reject(source.id, error)
        return
    writer.add(*(pair_of_row(row, picture) for row in outcome["pairs"]))
