"""Hallucinated earlier exams as a benchmark of a model, and on reports written elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo.chat.judging import opened
from mmpo.data.records import read_records, text_of, write_lines
from mmpo.errors import UserError
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.radiology import clinical as radiology_clinical
from mmpo.eval.radiology import metrics as radiology
from mmpo.eval.radiology import text as radiology_text
from mmpo.eval.radiology.settings import RadiologyEvalSettings
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.packages import BERT_SCORE, RADGRAPH, ROUGE_SCORE, SACREBLEU, require
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.findings import UNCERTAIN_AS, UncertainAs
from mmpo.radiology.judge import JudgeDetector
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.privacy import check_endpoint
from mmpo.radiology.reports import RadiologyReport, read_reports, truth

TEXT_KEYS = ("text", "answer", "report", "generated", "prediction")


@benchmark("radiology", settings=RadiologyEvalSettings, needs="reports with their films")
class Radiology(QuestionTask[RadiologyEvalSettings, RadiologyReport]):
    """Films shown to the model, its reports checked line by line."""

    partial = True
    films = True

    def __init__(self, settings: RadiologyEvalSettings, context: Context) -> None:
        super().__init__(settings, context)
        if self.settings.reports is None:
            raise UserError("radiology needs reports with films", hint="set eval.radiology.reports")
        if self.settings.judged_by == "both" and context.judge is None:
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
        if self.settings.judged_by == "both":
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

    def parts(self, given: Sequence[tuple[RadiologyReport, Response]]) -> list[Part]:
        answers = {report.id: response.text for report, response in given}
        references = {report.id: report.body(self.settings.section) for report, _ in given}
        options: Any = {"detector": self.detector, "uncertain_as": self.settings.uncertain_as}
        found = radiology.score_reports(answers, references, **options)
        cut = cut_off(given)
        parts = [Part(None, radiology.tally(found), len(found), cut)]
        if self.settings.judged_by == "both":
            with opened(self.context.judge, self.context.cache, "radiology") as chat:
                judged = radiology.judge_reports(answers, JudgeDetector(chat))
            agreement = radiology.agreement(found, judged)
            kept = {id: text for id, text in answers.items() if id in judged.flags}
            by_judge = radiology.score_reports(kept, references, flags=judged.flags, **options)
            if by_judge:
                parts.append(Part("judge", radiology.tally(by_judge), len(by_judge), cut, len(found) - len(by_judge)))
            kappa = agreement["kappa"]
            shown = "undefined" if kappa is None else f"{kappa:.3f}"
            note = f"radiology: detector and judge over {agreement['lines']} lines, Cohen's kappa {shown}"
            if note not in self.conventions:
                self.conventions.append(note)
        return parts

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
    detector = RuleDetector(load_lexicon(*([options["lexicon"]] if "lexicon" in options else [])))
    answers, prior, credentialed = _answers(request.answers)
    read, lost = len(answers) + prior, Counter({"has_prior": prior} if prior else {})
    references: dict[str, str] | None = None
    warnings: list[str] = []
    if request.questions is not None:
        references, unusable, marked = _references(request.questions, options.get("section", "findings"))
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
    uncertain_as: UncertainAs = next((one for one in UNCERTAIN_AS if one == request.parser), "positive")
    found = radiology.score_reports(answers, references, detector=detector, uncertain_as=uncertain_as)
    total = radiology.tally(found)
    metrics: dict[str, Any] = dict(total.shown())
    bounds = {name: list(pair) for name, pair in radiology.intervals(total).items() if metrics[name] is not None}
    metrics |= _model_metrics(options, answers, references)
    if "baseline" in options:
        base = radiology.score_reports(_answers(Path(options["baseline"]))[0], references, detector=detector)
        metrics |= radiology.reduction(base, found)
        metrics["baseline_prior_lines_per_report"] = radiology.tally(base).values["prior_lines_per_report"]
        metrics["baseline_words"] = radiology.tally(base).values["words"]
    if request.judge is not None:
        judged = radiology.judge_reports(answers, JudgeDetector(request.judge))
        kept = {id: text for id, text in answers.items() if id in judged.flags}
        lines = sum(sum(judged.flags[id]) for id in kept)
        metrics["judge"] = {
            "prior_lines_per_report": lines / len(kept) if kept else None,
            "reports_with_priors": sum(any(judged.flags[id]) for id in kept) / len(kept) if kept else None,
            **radiology.agreement(found, judged),
        }
        if judged.failed:
            warnings.append(f"{sum(judged.failed.values())} reports could not be judged and are left out of `judge`")
    conventions = [radiology.CONVENTION, "intervals: 95%, bootstrap over reports, 2,000 draws"]
    if references is not None:
        conventions.append(f"{radiology.NOT_CHEXBERT}; uncertain counts as {uncertain_as}")
        conventions.append("BLEU4: sacrebleu 13a, lower case, corpus; ROUGE_L: rouge-score, no stemming, mean")
    return Scored(metrics, conventions, read, len(answers), quarantined=dict(lost), warnings=warnings, intervals=bounds)


def _model_metrics(
    options: Mapping[str, str], answers: Mapping[str, str], references: Mapping[str, str] | None
) -> dict[str, float]:
    """Means of the metrics that need a trained model, where the options name one."""
    if not {"bertscore", "radgraph"} & options.keys():
        return {}
    if references is None:
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


def _references(path: Path, section: str) -> tuple[dict[str, str], int, bool]:
    """Reference texts by id; how many reports have none; whether any report is credentialed."""
    if section not in ("findings", "impression", "both", "report"):
        raise UserError(f"section {section!r}", hint="findings, impression, both or report")
    found: dict[str, str] = {}
    unusable, credentialed = 0, False
    for one in read_reports(path):
        body = one.body(section) if isinstance(one, RadiologyReport) else ""  # type: ignore[arg-type]
        credentialed = credentialed or (isinstance(one, RadiologyReport) and one.credentialed)
        if body:
            found[one.id] = body
        else:
            unusable += 1
    return found, unusable, credentialed
