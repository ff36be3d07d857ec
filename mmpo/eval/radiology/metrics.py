"""Hallucinated earlier exams in reports that were written from one film: how many lines refer to them, and what the
suppression costs in findings and text.

The headline is lines with such a reference per report (Banerjee et al. 2024, arXiv 2406.06496, abstract: 3.2 to 4.8
times fewer; there GPT-4 counts, here rules or a judge of yours). Shorter reports have fewer such lines by length alone:
mean words stand beside it. Findings are compared with references from which references to earlier exams were taken out,
and with the references as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpo.chat.judging import Judgement
from mmpo.errors import Quarantined
from mmpo.eval.radiology import text as radiology_text
from mmpo.eval.statistics.tally import Direction, Metric, Tally
from mmpo.radiology.detector import JudgedLine, PriorVerdict, RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report
from mmpo.radiology.findings import UncertainAs, compare_findings
from mmpo.radiology.judge import JudgeDetector
from mmpo.radiology.lines import split_lines
from mmpo.statistics import percentile_interval, resampled_sums

BOOTSTRAP = 2000
CONVENTION = (
    "a line is a sentence; it is flagged where it refers to an earlier exam or to change over time (docs/radiology.md)"
)
NOT_CHEXBERT = (
    "findings by mmpo's own rules for CheXpert's 14 labels: not CheXpert's labeller, CheXbert or RadGraph; compare "
    "before and after, not with published tables"
)


@dataclass(frozen=True)
class ScoredReport:
    """One written report. `counts` are in the order of `COLUMNS`."""

    id: str
    answer: str
    reference: str | None
    edited_reference: str | None
    lines: tuple[JudgedLine, ...]
    counts: tuple[float, ...]

    @property
    def flagged(self) -> int:
        return sum(line.verdict.flagged for line in self.lines)


COLUMNS = (
    "reports", "lines", "flagged", "flagged_reports", "words", "tp", "fp", "fn", "tp_raw", "fp_raw", "fn_raw",
    "referenced", "rougeL", "temporal", *(f"bleu{i}" for i in range(10)),
)  # fmt: skip
_AT = {name: number for number, name in enumerate(COLUMNS)}


def score_reports(
    answers: Mapping[str, str],
    references: Mapping[str, str] | None = None,
    *,
    detector: RuleDetector | None = None,
    uncertain_as: UncertainAs = "positive",
    flags: Mapping[str, Sequence[bool]] | None = None,
) -> list[ScoredReport]:
    """Score written reports by id. `references` may lack some ids; `flags` are another judge's, a value a line."""
    detector = detector or RuleDetector()
    editor = RuleEditor(detector)
    found = []
    for id, answer in answers.items():
        lines = detector.report(answer).lines
        marks = [line.verdict.flagged for line in lines] if flags is None else list(flags[id])
        reference = (references or {}).get(id)
        counts = dict.fromkeys(COLUMNS, 0.0)
        counts |= {
            "reports": 1,
            "lines": len(lines),
            "flagged": sum(marks),
            "flagged_reports": float(any(marks)),
            "words": len(answer.split()),
        }
        edited = None
        if reference is not None:
            edited = edit_report(reference, editor).text
            for suffix, other in (("", edited), ("_raw", reference)):
                table = compare_findings([answer], [other], uncertain_as).by_label.values()
                counts |= {f"{name}{suffix}": sum(row[i] for row in table) for i, name in enumerate(("tp", "fp", "fn"))}
            bleu = radiology_text.bleu_counts(answer, edited)
            counts |= {f"bleu{i}": value for i, value in enumerate(bleu)}
            counts |= {
                "referenced": 1,
                "rougeL": radiology_text.rouge(answer, edited)["rougeL"],
                "temporal": radiology_text.temporal_f1(answer, reference),
            }
        row = tuple(float(counts[name]) for name in COLUMNS)
        found.append(ScoredReport(id, answer, reference, edited, lines, row))
    return found


def _ratio(top: str, bottom: str) -> tuple[Any, Any]:
    def formula(c: Any) -> Any:
        return np.divide(
            c[..., _AT[top]], c[..., _AT[bottom]], out=np.zeros(c.shape[:-1], float), where=c[..., _AT[bottom]] != 0
        )

    return formula, lambda c: c[..., _AT[bottom]]


def _finding(kind: str, suffix: str = "") -> tuple[Any, Any]:
    def bottom(c: Any) -> Any:
        tp, fp, fn = (c[..., _AT[name + suffix]] for name in ("tp", "fp", "fn"))
        return {"precision": tp + fp, "recall": tp + fn, "f1": 2 * tp + fp + fn}[kind]

    def formula(c: Any) -> Any:
        top = c[..., _AT["tp" + suffix]] * (2 if kind == "f1" else 1)
        return np.divide(top, bottom(c), out=np.zeros(c.shape[:-1], float), where=bottom(c) != 0)

    return formula, bottom


def _bleu(c: Any) -> Any:
    return radiology_text.bleu(c[..., _AT["bleu0"] :])


def _metric(
    name: str, parts: tuple[Any, Any], better: Direction, meaning: str, percent: bool = True, headline: int = 0
) -> Metric:
    return Metric(name, parts[0], better, meaning, percent, denominator=parts[1], headline=headline)


METRICS = (
    _metric(
        "prior_lines_per_report",
        _ratio("flagged", "reports"),
        "lower",
        "lines a report that refer to an earlier exam",
        False,
        1,
    ),
    Metric(
        "reports_with_priors",
        _ratio("flagged_reports", "reports")[0],
        "lower",
        "share of reports with such a line",
        independent=(_AT["flagged_reports"], _AT["reports"]),
        denominator=_ratio("flagged_reports", "reports")[1],
    ),
    _metric("prior_line_share", _ratio("flagged", "lines"), "lower", "share of lines that are such"),
    _metric("words", _ratio("words", "reports"), "neither", "words of a report", percent=False),
)
REFERENCE_METRICS = (
    _metric(
        "finding_precision",
        _finding("precision"),
        "higher",
        "of the findings reported, the share that the reference has",
    ),
    _metric("finding_recall", _finding("recall"), "higher", "of the reference's findings, the share that is reported"),
    _metric("finding_F1", _finding("f1"), "higher", "harmonic mean of both, references without earlier exams"),
    _metric("finding_F1_unedited", _finding("f1", "_raw"), "neither", "the same, references as they are"),
    Metric("BLEU4", _bleu, "higher", "shared sequences of up to 4 words", denominator=_ratio("words", "referenced")[1]),
    _metric("ROUGE_L", _ratio("rougeL", "referenced"), "higher", "longest common sequence of words"),
    _metric(
        "temporal_F1", _ratio("temporal", "referenced"), "neither", "words about change that the reference has too"
    ),
)


def tally(reports: Sequence[ScoredReport]) -> Tally:
    """The counts of all reports; findings and text only where there are references."""
    counts = np.array([report.counts for report in reports], dtype=float)
    referenced = bool(counts[:, _AT["referenced"]].any())
    outcomes = {report.id: not report.flagged for report in reports}
    metrics = (*METRICS, *REFERENCE_METRICS) if referenced else METRICS
    return Tally(tuple(outcomes), counts, metrics, outcomes, paired_metric="reports_with_priors")


def reduction(before: Sequence[ScoredReport], after: Sequence[ScoredReport], seed: int = 0) -> dict[str, float | None]:
    """The flagged lines before, divided by those after, with a 95% paired bootstrap interval over the reports that both
    have (2,000 draws); None where the divisor is 0.
    """
    first = {report.id: report for report in before}
    pairs = [(first[report.id].flagged, report.flagged) for report in after if report.id in first]
    if not pairs:
        return {"reduction": None, "reduction_low": None, "reduction_high": None}
    counts = np.array(pairs, dtype=float)
    sums = resampled_sums(counts, samples=BOOTSTRAP, seed=seed)
    total = counts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.inf)
    drawn = np.where((sums[:, 0] == 0) & (sums[:, 1] == 0), 1.0, drawn)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return {
        "reduction": float(total[0] / total[1]) if total[1] else None,
        "reduction_low": float(low) if np.isfinite(low) else None,
        "reduction_high": float(high) if np.isfinite(high) else None,
    }


def intervals(found: Tally, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95% bootstrap interval of every metric over reports (2,000 draws)."""
    sums = resampled_sums(found.counts, samples=BOOTSTRAP, seed=seed)
    out = {}
    for metric in found.metrics:
        interval = percentile_interval(metric.formula(sums), images=len(found.images))
        out[metric.name] = (interval.low, interval.high)
    return out


@dataclass(frozen=True)
class JudgedReports:
    """A judge's flags by report id, a value a line; `failed` counts reports that it could not judge, by reason, and
    `judgements` are all its replies.
    """

    flags: dict[str, list[bool]]
    failed: dict[str, int]
    judgements: list[Judgement[list[PriorVerdict | None]]]


def judge_reports(answers: Mapping[str, str], judge: JudgeDetector) -> JudgedReports:
    """Every line of every report by a text model; a report whose reply can't be read in full is left out."""
    lines = {id: [line.text for line in split_lines(answer)] for id, answer in answers.items()}
    asked = [id for id, texts in lines.items() if texts]
    flags: dict[str, list[bool]] = {id: [] for id, texts in lines.items() if not texts}
    judgements = judge.judgements([lines[id] for id in asked])
    for id, one in zip(asked, judgements, strict=True):
        verdicts = [verdict for verdict in one.value or () if verdict is not None]
        if len(verdicts) == len(lines[id]):
            flags[id] = [verdict.flagged for verdict in verdicts]
    failed = len(lines) - len(flags)
    return JudgedReports(flags, {"judge_unreadable": failed} if failed else {}, judgements)


def agreement(reports: Sequence[ScoredReport], judged: JudgedReports) -> dict[str, float | int | None]:
    """Detector against judge over all lines that both read: share alike and Cohen's kappa (None where one of them says
    the same of every line and so does the other).
    """
    ours: list[bool] = []
    theirs: list[bool] = []
    for report in reports:
        if report.id in judged.flags:
            ours += [line.verdict.flagged for line in report.lines]
            theirs += judged.flags[report.id]
    if not ours:
        return {"lines": 0, "agreement": None, "kappa": None}
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    from sklearn.metrics import cohen_kappa_score

    kappa = float(cohen_kappa_score(ours, theirs)) if len({*ours, *theirs}) > 1 else None
    return {"lines": len(ours), "agreement": same, "kappa": kappa}


def unusable(error: Quarantined) -> str:
    """A short name for a count."""
    return f"{error.stage}_{error.reason}"
