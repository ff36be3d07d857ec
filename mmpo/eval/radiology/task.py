"""Hallucinated earlier exams as a benchmark of a model, and on reports written elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmpo.chat.judging import opened, require_all
from mmpo.data.records import read_records, text_of, write_lines
from mmpo.errors import UserError
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.radiology import clinical as radiology_clinical
from mmpo.eval.radiology import metrics as radiology
from mmpo.eval.radiology import text as radiology_text
from mmpo.eval.radiology.settings import RadiologyEvalSettings
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.packages import BERT_SCORE, RADGRAPH, ROUGE_SCORE, SACREBLEU, require
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.findings import UNCERTAIN_AS
from mmpo.radiology.judge import JudgeDetector
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.privacy import check_endpoint
from mmpo.radiology.reports import RadiologyReport, read_reports, truth
from mmpo.radiology.reports import ReportSection as ReportSection

TEXT_KEYS = ("text", "answer", "report", "generated", "prediction")


@benchmark("radiology", settings=RadiologyEvalSettings, needs="reports with their films")
class Radiology(JudgedTask[RadiologyEvalSettings, RadiologyReport, radiology.JudgedReports]):
    """Films shown to the model, its reports checked line by line."""

    partial = True
    films = True

    def __init__(self, settings: RadiologyEvalSettings, context: Context) -> None:
        super().__init__(settings, context)
        if self.settings.reports is None:
            raise UserError("radiology needs reports with films", hint="set eval.radiology.reports")
        self.by_model = self.settings.judged_by == "both"
        if self.by_model and context.judge is None:
            raise UserError("radiology: judged_by: both needs a judge", hint="set eval.judge (docs/judges.md)")
        require("radiology, to compare texts,", SACREBLEU, ROUGE_SCORE)
        lexicon = [self.settings.lexicon] if self.settings.lexicon else []
        self.detector = RuleDetector(load_lexicon(*lexicon))
        reports: list[RadiologyReport] = []
        dropped: Counter[str] = Counter()
        for one in read_reports(self.settings.reports, images=self.settings.images):
            if not isinstance(one, RadiologyReport):
                dropped[one.error.reason] += 1
            elif one.has_prior:
                dropped["has_prior"] += 1
            elif not one.images or not one.body(self.settings.section):
                dropped["no_image" if not one.images else "no_section"] += 1
            else:
                reports.append(one)
        self.questions = reports[: context.limit]
        if not self.questions:
            raise UserError(f"{self.settings.reports}: no report can be used ({dict(dropped)})")
        if self.by_model:
            check_endpoint(context.judge, any(report.credentialed for report in self.questions))
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        self.conventions = [
            f"radiology: {len(self.questions)} films, prompt {self.settings.prompt!r}, greedy, at most "
            f"{self.settings.max_new_tokens} tokens; "
            + (f"left out {left_out}; " if dropped else "")
            + radiology.CONVENTION,
            f"{radiology.NOT_CHEXBERT}; uncertain counts as {self.settings.uncertain_as}; findings, BLEU and ROUGE "
            "against references without priors, finding_F1_unedited against them as they are",
        ]

    def parts(
        self, given: Sequence[tuple[RadiologyReport, Response]], judged: radiology.JudgedReports | None = None
    ) -> list[Part]:
        """Score by rules, and beside them by flags made elsewhere, or by those of `judge`."""
        found, cut = self.scored(given), cut_off(given)
        parts = [Part(None, radiology.tally(found), len(found), cut)]
        judged = self.judged(given) if judged is None and self.by_model else judged
        if judged is None:
            return parts
        kept = [one for one in given if one[0].id in judged.flags]
        if kept:
            by_judge = radiology.tally(self.scored(kept, judged.flags))
            parts.append(Part("judge", by_judge, len(kept), cut, len(found) - len(kept)))
        alike = radiology.agreement(found, judged)
        kappa = "undefined" if alike["kappa"] is None else f"{alike['kappa']:.3f}"
        note = f"radiology: detector and judge over {alike['lines']} lines, Cohen's kappa {kappa}"
        if note not in self.conventions:
            self.conventions.append(note)
        return parts

    def scored(
        self, given: Sequence[tuple[RadiologyReport, Response]], flags: Mapping[str, Sequence[bool]] | None = None
    ) -> list[radiology.ScoredReport]:
        """The written reports against the questions' own, where these have the section; `flags` are another judge's."""
        return radiology.score_reports(
            {report.id: response.text for report, response in given},
            {report.id: body for report, _ in given if (body := report.body(self.settings.section))},
            detector=self.detector,
            uncertain_as=self.settings.uncertain_as,
            flags=flags,
        )

    def judge(self, given: Sequence[tuple[RadiologyReport, Response]]) -> radiology.JudgedReports:
        with opened(self.context.judge, self.context.cache, "radiology") as chat:
            judged = radiology.judge_reports(
                {report.id: response.text for report, response in given}, JudgeDetector(chat)
            )
        require_all(judged.judgements, "radiology")
        return judged

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            rows = (
                {"id": report.id, "text": response.text, **self.detector.report(response.text).row()}
                for report, response in self.answered(given)
            )
            write_lines(folder / f"reports_{state}.jsonl", rows)

    def request(self, question: RadiologyReport) -> Request:
        return Request(question.images[0], self.settings.prompt, self.settings.max_new_tokens, str(question.root))


@scorer(
    "radiology",
    parsers=UNCERTAIN_AS,
    options={
        "section": "part of the references to compare with: findings (the default), impression, both or report",
        "baseline": "answers of another system on the same reports, for the reduction",
        "allow_missing": "yes: answers and references without partner are counted instead of refused",
        "lexicon": "further words for the detector, YAML or JSON",
        "bertscore": "encoder for BERTScore, a folder or a name in the local cache (needs bert-score)",
        "radgraph": "RadGraph model, for example radgraph-xl (needs the package radgraph and its weights)",
    },
    packages={"questions": (SACREBLEU, ROUGE_SCORE), "bertscore": (BERT_SCORE,), "radgraph": (RADGRAPH,)},
)
def score_radiology(request: ScoreRequest) -> Scored:
    """Lines with references to earlier exams in written reports (`id`, `text`, optionally `has_prior`), and against
    reference reports (--questions) findings and text. The parser says how an uncertain finding counts.
    """
    options = request.options
    settings = RadiologyEvalSettings.model_construct(
        section=options.get("section", "findings"), uncertain_as=request.parser or "positive"
    )
    detector = RuleDetector(load_lexicon(*([options["lexicon"]] if "lexicon" in options else [])))
    answers, prior, credentialed = _answers(request.answers)
    read, lost = len(answers) + prior, Counter({"has_prior": prior} if prior else {})
    references: dict[str, RadiologyReport] = {}
    warnings: list[str] = []
    if request.questions is not None:
        references, unusable, marked = _references(request.questions, settings.section)
        credentialed = credentialed or marked
        missing = [id for id in answers if id not in references]
        unanswered = len(references.keys() - answers.keys())
        if (missing or unanswered) and options.get("allow_missing") != "yes":
            raise UserError(
                f"{len(missing)} answers have no reference ({', '.join(missing[:3]) or '-'}), {unanswered} references "
                f"no answer, {unusable} references can't be read",
                hint="--set allow_missing=yes leaves them out and counts them",
            )
        if missing:
            lost["no_reference"] = len(missing)
            answers = {id: text for id, text in answers.items() if id in references}
        if unanswered:
            warnings.append(f"{unanswered} references have no answer")
    if not answers:
        raise UserError(f"{request.answers}: no answer can be scored ({dict(lost)})")
    check_endpoint(request.judge.settings if request.judge else None, credentialed)
    others = _model_metrics(options, answers, {id: one.body(settings.section) for id, one in references.items()})
    given = _given(answers, references)
    task = Radiology.on([report for report, _ in given], settings)
    task.by_model, task.detector = False, detector
    judged = None if request.judge is None else radiology.judge_reports(answers, JudgeDetector(request.judge))
    whole, *by_judge = task.parts(given, judged)
    metrics: dict[str, Any] = dict(whole.tally.shown())
    bounds = {name: list(pair) for name, pair in radiology.intervals(whole.tally).items() if metrics[name] is not None}
    metrics |= others
    if "baseline" in options:
        base = task.scored(_given(_answers(Path(options["baseline"]))[0], references))
        metrics |= radiology.reduction(base, task.scored(given))
        metrics["baseline_prior_lines_per_report"] = radiology.tally(base).values["prior_lines_per_report"]
        metrics["baseline_words"] = radiology.tally(base).values["words"]
    if judged is not None:
        values = by_judge[0].tally.values if by_judge else {}
        metrics["judge"] = {
            **{name: values.get(name) for name in ("prior_lines_per_report", "reports_with_priors")},
            **radiology.agreement(task.scored(given), judged),
        }
        if judged.failed:
            warnings.append(f"{sum(judged.failed.values())} reports could not be judged and are left out of `judge`")
    conventions = [radiology.CONVENTION, "intervals: 95%, bootstrap over reports, 2,000 draws"]
    if request.questions is not None:
        conventions.append(f"{radiology.NOT_CHEXBERT}; uncertain counts as {settings.uncertain_as}")
        conventions.append("BLEU4: sacrebleu 13a, lower case, corpus; ROUGE_L: rouge-score, no stemming, mean")
    return Scored(metrics, conventions, read, len(answers), quarantined=dict(lost), warnings=warnings, intervals=bounds)


def _given(
    answers: Mapping[str, str], references: Mapping[str, RadiologyReport]
) -> list[tuple[RadiologyReport, Response]]:
    """Reports that were written, with their references, which are empty where there are none."""
    return [(references.get(id) or RadiologyReport(id, "", {}), Response(text, False)) for id, text in answers.items()]


def _model_metrics(
    options: Mapping[str, str], answers: Mapping[str, str], references: Mapping[str, str]
) -> dict[str, float]:
    """Means of the metrics that need a trained model, where the options name one."""
    if not {"bertscore", "radgraph"} & options.keys():
        return {}
    if not references:
        raise UserError("bertscore and radgraph compare with references", hint="give --questions")
    ours, theirs = list(answers.values()), [references[id] for id in answers]
    found = {}
    if "bertscore" in options:
        values = radiology_text.bert_score(ours, theirs, options["bertscore"])
        found["BERTScore"] = sum(values) / len(values)
    if "radgraph" in options:
        graphs = [radiology_clinical.annotate(texts, options["radgraph"]) for texts in (ours, theirs)]
        for level in ("simple", "partial", "complete", "combined"):
            values = [radiology_clinical.radgraph_f1(a, b, level) for a, b in zip(*graphs, strict=True)]
            found[f"RadGraph_{level}"] = sum(values) / len(values)
    return found


def _answers(path: Path) -> tuple[dict[str, str], int, bool]:
    """Reports by id, without those that were given an earlier exam; how many these are; whether any is credentialed."""
    answers: dict[str, str] = {}
    prior, credentialed = 0, False
    for where, row in read_records(path):
        id = str(row.get("id", row.get("study_id", where)))
        credentialed = credentialed or truth(row.get("credentialed"))
        if truth(row.get("has_prior")):
            prior += 1
            continue
        if id in answers:
            raise UserError(f"{where}: id {id!r} comes twice")
        answers[id] = text_of(row, TEXT_KEYS, where)
    return answers, prior, credentialed


def _references(path: Path, section: str) -> tuple[dict[str, RadiologyReport], int, bool]:
    """Reference reports by id; how many have none of the section; whether any report is credentialed."""
    if section not in get_args(ReportSection):
        raise UserError(f"section {section!r}", hint="findings, impression, both or report")
    reports = [one if isinstance(one, RadiologyReport) else None for one in read_reports(path)]
    usable = [one for one in reports if one and one.body(section)]  # type: ignore[arg-type]
    credentialed = any(one and one.credentialed for one in reports)
    return {one.id: one for one in usable}, len(reports) - len(usable), credentialed
