"""POPE, Polling-based Object Probing Evaluation (Li et al., EMNLP 2023, arXiv 2305.10355): scoring.

"Is there a dog in the image?", half yes, half no, in three splits that differ in how the absent objects are chosen.
The positive class is "yes". The files are read in `mmpo.eval.pope.files`; questions from any annotated image set are
made in `mmpo.eval.pope.build`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.pope.files import (
    SPLITS,
    PopeAnswer,
    PopeQuestion,
    PopeSplit,
    asked_object,
    llava_split,
    match,
    of_first_images,
    packed_splits,
    read_answers,
    read_questions,
    read_splits,
    spelled,
    split_of,
    write_answers,
    write_questions,
)
from mmpo.eval.statistics.tally import YES_RATIO, Metric, Tally, aligned, by_image, ranking, share
from mmpo.eval.yes_no import YesNoVerdict, parse, vcd
from mmpo.statistics import Array, ratio

__all__ = [
    "METRICS", "SPLITS", "PopeAnswer", "PopeQuestion", "PopeResult", "PopeSplit", "asked_object", "llava_split",
    "match", "mean_over_splits", "of_first_images", "outcome_counts", "packed_splits", "read_answers", "read_questions",
    "read_splits", "score", "spelled", "split_of", "write_answers", "write_questions",
]  # fmt: skip

Settle = Callable[[Iterable[tuple[str, str]]], Mapping[tuple[str, str], YesNoVerdict]]
"""Decides about (question, answer) where a parser can't, and leaves out what it can't decide either."""

_TP, _FP, _TN, _FN, _CORRECT, _YES, _ALL = range(7)


def _precision(c: Array) -> Array:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FP])


def _recall(c: Array) -> Array:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FN])


def _f1(c: Array) -> Array:
    precision, recall = _precision(c), _recall(c)
    return ratio(2 * precision * recall, precision + recall)


_ACCURACY = share("accuracy", _CORRECT, _ALL, "higher", "share of right answers", watched=True)
METRICS = (
    _ACCURACY,
    Metric(
        "precision", _precision, "higher", "objects said to be there that are",
        denominator=lambda c: c[..., _TP] + c[..., _FP],
    ),
    Metric(
        "recall", _recall, "higher", "objects there that are said so", denominator=lambda c: c[..., _TP] + c[..., _FN]
    ),
    Metric(
        "F1", _f1, "higher", "harmonic mean of precision and recall", headline=1, watched=True,
        denominator=lambda c: c[..., _TP] + c[..., _FP] + c[..., _FN],
    ),
    share("yes_ratio", _YES, _ALL, "neither", **YES_RATIO),
)  # fmt: skip


def outcome_counts(tally: Tally) -> dict[str, int]:
    """TP, FP, TN and FN of one split, with "yes" as the positive class."""
    totals = tally.counts.sum(0)
    return {name: int(totals[column]) for column, name in enumerate(("TP", "FP", "TN", "FN"))}


@dataclass(frozen=True)
class PopeResult:
    """One split, scored. `verdicts[i]` is what answer i was read as; nothing of the answers is changed or dropped.

    `unparsed` answers hold no word that the parser looks for and got its default. `matched_by` says whether questions
    and answers were joined by `question_id` or by position (the official way), `foreign_ids` that the answers have ids
    which are not the questions', and quote nothing that would show a wrong order.
    """

    parser: str
    matched_by: Literal["question_id", "position"]
    verdicts: tuple[YesNoVerdict, ...]
    label_counts: dict[str, int]
    unparsed: int
    tally: Tally
    foreign_ids: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """TP, FP, TN and FN with "yes" as the positive class."""
        return outcome_counts(self.tally)

    @property
    def metrics(self) -> dict[str, float]:
        """TP, FP, TN, FN, accuracy, precision, recall, F1 and yes_ratio, in the official order; fractions, 0 where
        undefined.
        """
        return {**self.counts, **self.tally.values}


def score(
    questions: Sequence[PopeQuestion],
    answers: Sequence[PopeAnswer | str],
    parser: str = "official",
    *,
    p_yes: Sequence[float | None] = (),
    settle: Settle | None = None,
) -> PopeResult:
    """Score the answers to one split.

    Answers are joined to questions by `question_id` where both carry the same set of ids, else by position; an answer
    that quotes its question is checked against it. The parsers' conventions for text that says neither: official,
    llava and opera read "yes"; vlmevalkit counts it as wrong for accuracy and as "no" for the rest; lmms-eval counts
    it as wrong and leaves it out of TP, FP, TN and FN; dash (RePOPE's) leaves it out of everything; vcd (which is no
    rule for the text alone) counts it as the wrong one. `yes_ratio` counts the answers (lmms-eval's own counts the
    labels). `p_yes`, where known, is each answer's probability of yes, in the order of the questions. `settle`
    goes before the parser.

    Raises UserError where the numbers of questions and answers differ (the official script silently drops the
    surplus) or a quoted question is another.
    """
    if not questions:
        raise UserError("there are no POPE questions to score")
    given, matched_by = match(questions, [PopeAnswer(a) if isinstance(a, str) else a for a in answers])
    answered = [(question.text, answer.text) for question, answer in zip(questions, given, strict=True)]
    settled = settle(answered) if settle is not None else {}
    verdicts = tuple(
        settled.get(one) or (vcd(one[1], question.label) if parser == "vcd" else parse(one[1], parser))
        for one, question in zip(answered, questions, strict=True)
    )
    rows = np.zeros((len(questions), 7), dtype=np.int64)
    outcomes: dict[tuple[str, str], bool] = {}
    for row, question, verdict in zip(rows, questions, verdicts, strict=True):
        right = verdict.label == question.label
        read_as = "no" if verdict.label is None and parser == "vlmevalkit" else verdict.label
        if read_as is not None:
            row[
                {("yes", "yes"): _TP, ("yes", "no"): _FP, ("no", "no"): _TN, ("no", "yes"): _FN}[
                    read_as, question.label
                ]
            ] = 1
        row[_CORRECT], row[_YES], row[_ALL] = right, read_as == "yes", read_as is not None or parser != "dash"
        outcomes[question.image, question.text] = right
    images, counts = by_image([question.image for question in questions], rows)
    return PopeResult(
        parser=parser,
        matched_by=matched_by,
        verdicts=verdicts,
        label_counts=Counter(question.label for question in questions),
        unparsed=sum(not verdict.found for verdict in verdicts),
        tally=Tally(
            images,
            counts,
            METRICS,
            outcomes,
            paired_metric="accuracy",
            ranking=ranking(images, [q.image for q in questions], p_yes, [q.label == "yes" for q in questions]),
        ),
        foreign_ids=matched_by == "position" and any(a.question_id is not None and a.question is None for a in given),
    )


def mean_over_splits(results: Mapping[str, PopeResult]) -> Tally:
    """Mean F1 and mean accuracy over the splits: the two headline numbers of the literature (LLaVA-1.5 reports mean
    F1).

    A question that several splits share counts once in each, as published; an image's counts of all splits are
    resampled together.
    """
    images = tuple(dict.fromkeys(image for result in results.values() for image in result.tally.images))
    counts = np.concatenate([aligned(result.tally, images) for result in results.values()], axis=1)
    splits = len(results)

    def mean(formula: Any) -> Any:
        return lambda c: formula(c.reshape(*c.shape[:-1], splits, 7)).mean(-1)

    outcomes = {key: right for result in results.values() for key, right in result.tally.outcomes.items()}
    return Tally(
        images,
        counts,
        (
            Metric("mean_F1", mean(_f1), "higher", "mean of the splits' F1", label="mean F1", headline=2, watched=True),
            Metric(
                "mean_accuracy",
                mean(_ACCURACY.formula),
                "higher",
                "mean of the splits' accuracies",
                label="mean accuracy",
            ),
        ),
        outcomes,
        categories={key: name for key in outcomes if (name := asked_object(key[1]))},
    )
