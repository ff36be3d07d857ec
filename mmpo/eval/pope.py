"""POPE, Polling-based Object Probing Evaluation (Li et al., EMNLP 2023, arXiv 2305.10355): reading question and
answer files, scoring.

"Is there a dog in the image?", half yes, half no, in three splits that differ in how the absent objects are chosen.
The positive class is "yes". Questions from any annotated image set are made in `mmpo.eval.pope_builder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpo.data.atomic import write_text
from mmpo.errors import UserError
from mmpo.eval.records import read_records, text_of
from mmpo.eval.statistics import Array, ratio
from mmpo.eval.tally import Metric, Tally, aligned, by_image, ranking
from mmpo.eval.yes_no import Verdict, parse

Split = Literal["random", "popular", "adversarial"]
SPLITS: tuple[Split, ...] = ("random", "popular", "adversarial")

LLAVA_ID_OFFSETS: dict[str, int] = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
"""LLaVA packs the three splits into one file and shifts the question ids of each by this much."""


@dataclass(frozen=True)
class PopeQuestion:
    """One line of a question file; `where` is the file and line it came from."""

    question_id: int
    image: str
    text: str
    label: Literal["yes", "no"]
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class PopeAnswer:
    """One answer, given by this package or read from a file; `question_id` and `question` where the file has them."""

    text: str
    question_id: int | None = None
    question: str | None = None
    where: str = field(default="", compare=False)


def read_questions(path: str | Path) -> list[PopeQuestion]:
    """Read a question file: the official JSON Lines, SEEM's arrays, RePOPE, POPEv2 (`image_name`, `query`,
    `Yes`/`No`).

    Raises UserError naming file and line for a missing key, a label that is not yes or no, or a question id used
    twice.
    """
    questions: list[PopeQuestion] = []
    seen: dict[int, str] = {}
    for number, (where, record) in enumerate(read_records(path), start=1):
        label = text_of(record, ("label",), where).strip().lower()
        if label not in ("yes", "no"):
            raise UserError(f"{where}: label {record['label']!r} is neither yes nor no")
        question_id = _question_id(record, where)
        question_id = number if question_id is None else question_id
        if question_id in seen:
            raise UserError(f"{where}: question id {question_id} is already used at {seen[question_id]}")
        seen[question_id] = where
        questions.append(
            PopeQuestion(
                question_id=question_id,
                image=text_of(record, ("image", "image_name"), where),
                text=text_of(record, ("text", "query"), where),
                label="yes" if label == "yes" else "no",
                where=where,
            )
        )
    return questions


def write_questions(path: str | Path, questions: Iterable[PopeQuestion]) -> None:
    """Write the official format: JSON Lines with the keys question_id, image, text, label in this order."""
    lines = (
        json.dumps({"question_id": q.question_id, "image": q.image, "text": q.text, "label": q.label})
        for q in questions
    )
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_answers(path: str | Path, questions: Sequence[PopeQuestion], answers: Sequence[str]) -> None:
    """Write the official answer format, with the question ids added: JSON Lines with question_id, question, answer."""
    lines = (
        json.dumps(
            {"question_id": question.question_id, "question": question.text, "answer": answer}, ensure_ascii=False
        )
        for question, answer in zip(questions, answers, strict=True)
    )
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_answers(path: str | Path) -> list[PopeAnswer]:
    """Read an answer file: the official one (`answer`, usually `question`) or LLaVA's (`question_id`, `prompt`,
    `text`).

    Raises UserError naming file and line; an empty answer is an answer.
    """
    answers = []
    for where, record in read_records(path):
        question = record.get("question", record.get("prompt"))
        answers.append(
            PopeAnswer(
                text=text_of(record, ("answer", "text"), where),
                question_id=_question_id(record, where),
                question=question if isinstance(question, str) else None,
                where=where,
            )
        )
    return answers


def llava_split(answers: Iterable[PopeAnswer], split: Split) -> list[PopeAnswer]:
    """The answers of one split from LLaVA's single answer file, under the ids of the split's own question file."""
    picked = []
    for answer in answers:
        if answer.question_id is None:
            raise UserError(f"{answer.where}: no `question_id`, so its split is unknown")
        local = answer.question_id % 10_000_000
        if answer.question_id - local == LLAVA_ID_OFFSETS[split]:
            picked.append(PopeAnswer(answer.text, local, answer.question, answer.where))
    return picked


def packed_splits(answers: Sequence[PopeAnswer]) -> list[Split]:
    """The splits that the answers' ids belong to, where they are LLaVA's shifted ones; else none."""
    if any(answer.question_id is None for answer in answers):
        return []
    offsets = {answer.question_id - answer.question_id % 10_000_000 for answer in answers if answer.question_id}
    found = [split for split in SPLITS if LLAVA_ID_OFFSETS[split] in offsets]
    return found if offsets <= set(LLAVA_ID_OFFSETS.values()) and offsets != {0} else []


def _question_id(record: Mapping[str, Any], where: str) -> int | None:
    value = record.get("question_id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: `question_id` must be a whole number, found {value!r}")
    return value


# --- scoring -----------------------------------------------------------------------------------------------------

_TP, _FP, _TN, _FN, _CORRECT, _YES, _ALL = range(7)


def _precision(c: Array) -> Array:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FP])


def _recall(c: Array) -> Array:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FN])


def _f1(c: Array) -> Array:
    precision, recall = _precision(c), _recall(c)
    return ratio(2 * precision * recall, precision + recall)


def _accuracy(c: Array) -> Array:
    return ratio(c[..., _CORRECT], c[..., _ALL])


METRICS = (
    Metric("accuracy", _accuracy, "higher", denominator=lambda c: c[..., _ALL]),
    Metric("precision", _precision, "higher", denominator=lambda c: c[..., _TP] + c[..., _FP]),
    Metric("recall", _recall, "higher", denominator=lambda c: c[..., _TP] + c[..., _FN]),
    Metric("F1", _f1, "higher", denominator=lambda c: c[..., _TP] + c[..., _FP] + c[..., _FN]),
    Metric("yes_ratio", lambda c: ratio(c[..., _YES], c[..., _ALL]), "neither", denominator=lambda c: c[..., _ALL]),
)


@dataclass(frozen=True)
class PopeResult:
    """One split, scored. `verdicts[i]` is what answer i was read as; nothing of the answers is changed or dropped.

    `unparsed` answers hold no word that the parser looks for and got its default. `matched_by` says whether questions
    and answers were joined by `question_id` or by position (the official way).
    """

    parser: str
    matched_by: Literal["question_id", "position"]
    verdicts: tuple[Verdict, ...]
    unparsed: int
    tally: Tally

    @property
    def counts(self) -> dict[str, int]:
        """TP, FP, TN and FN with "yes" as the positive class."""
        totals = self.tally.counts.sum(0)
        return {name: int(totals[column]) for column, name in enumerate(("TP", "FP", "TN", "FN"))}

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
) -> PopeResult:
    """Score the answers to one split.

    Answers are joined to questions by `question_id` where both carry the same set of ids, else by position; an answer
    that quotes its question is checked against it. The parsers' conventions for text that says neither: official,
    llava and opera read "yes"; vlmevalkit counts it as wrong for accuracy and as "no" for the rest; lmms-eval counts
    it as wrong and leaves it out of TP, FP, TN and FN. `yes_ratio` always counts the answers (lmms-eval's own counts
    the labels). `p_yes`, where known, is each answer's probability of yes, in the order of the questions.

    Raises UserError where the numbers of questions and answers differ (the official script silently drops the
    surplus) or a quoted question is another.
    """
    given = [PopeAnswer(answer) if isinstance(answer, str) else answer for answer in answers]
    if not questions:
        raise UserError("there are no POPE questions to score")
    _check_lengths(questions, given)
    given, matched_by = _match(questions, given)
    verdicts = tuple(parse(answer.text, parser) for answer in given)
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
        row[_CORRECT], row[_YES], row[_ALL] = right, read_as == "yes", 1
        outcomes[question.image, question.text] = right
    images, counts = by_image([question.image for question in questions], rows)
    return PopeResult(
        parser=parser,
        matched_by=matched_by,
        verdicts=verdicts,
        unparsed=sum(not verdict.found for verdict in verdicts),
        tally=Tally(
            images,
            counts,
            METRICS,
            outcomes,
            paired_metric="accuracy",
            ranking=ranking(images, [q.image for q in questions], p_yes, [q.label == "yes" for q in questions]),
        ),
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
        (Metric("mean_F1", mean(_f1), "higher"), Metric("mean_accuracy", mean(_accuracy), "higher")),
        outcomes,
        categories={key: name for key in outcomes if (name := asked_object(key[1]))},
    )


_ASKED = re.compile(r"is there an? (.+?) in (?:the|this) (?:image|imange|picture|photo)\b", re.IGNORECASE)


def asked_object(text: str) -> str | None:
    """The object that a question in POPE's wording asks about; None in another wording."""
    found = _ASKED.search(text)
    return found[1].lower() if found else None


def split_of(path: str | Path) -> str:
    """The split that a file's name says it holds (`coco_pope_popular.json`); its name without ending where none."""
    path = Path(path)
    return next((split for split in SPLITS if split in path.stem.lower()), path.stem)


def read_splits(paths: Sequence[str | Path]) -> dict[str, list[PopeQuestion]]:
    """Several question files, by split. Raises UserError where two of them are the same split."""
    splits: dict[str, list[PopeQuestion]] = {}
    for path in paths:
        if split_of(path) in splits:
            raise UserError(f"{path}: a second file of the split {split_of(path)!r}", hint="rename one of them")
        splits[split_of(path)] = read_questions(path)
    return splits


def _check_lengths(questions: Sequence[PopeQuestion], answers: Sequence[PopeAnswer]) -> None:
    if len(questions) == len(answers):
        return
    longer: Sequence[PopeQuestion | PopeAnswer] = questions if len(questions) > len(answers) else answers
    surplus = longer[min(len(questions), len(answers))]
    side = "without an answer" if longer is questions else "without a question"
    where = surplus.where or f"number {min(len(questions), len(answers)) + 1}"
    raise UserError(
        f"{len(questions)} questions but {len(answers)} answers; {where} is the first {side}",
        hint="are both files of the same version? The random split had 2,910 questions until October 2023, now 3,000",
    )


def _match(
    questions: Sequence[PopeQuestion], answers: list[PopeAnswer]
) -> tuple[list[PopeAnswer], Literal["question_id", "position"]]:
    """The answers in the order of the questions. Raises UserError where an answer quotes another question or one id
    is answered twice.
    """
    by_id: dict[int, PopeAnswer] = {}
    for answer in answers:
        if answer.question_id is None:
            continue
        if answer.question_id in by_id:
            first = by_id[answer.question_id].where
            raise UserError(f"{answer.where}: question id {answer.question_id} is already answered at {first}")
        by_id[answer.question_id] = answer
    joined = by_id.keys() == {question.question_id for question in questions} and len(by_id) == len(questions)
    ordered = [by_id[question.question_id] for question in questions] if joined else answers
    for question, answer in zip(questions, ordered, strict=True):
        if answer.question is not None and not _spelled(answer.question).startswith(_spelled(question.text)):
            raise UserError(
                f"{answer.where}: answers {answer.question!r}, "
                f"but the question at {question.where or question.question_id} is {question.text!r}",
                hint="the answer file is of another version of the questions, or in another order",
            )
    return ordered, "question_id" if joined else "position"


def _spelled(text: str) -> str:
    """The text with the typing error of the files before October 2023 put right, so that either version quotes the
    other.
    """
    return text.strip().replace("an imange", "an image").replace("the imange", "the image")


def of_first_images(questions: Sequence[PopeQuestion], limit: int | None) -> list[PopeQuestion]:
    """The questions about the first `limit` images; all of them where it is None."""
    kept = set(list(dict.fromkeys(question.image for question in questions))[:limit])
    return [question for question in questions if question.image in kept]
