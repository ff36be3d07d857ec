"""POPE's files: questions and answers in every published form, and which answer belongs to which question."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpo.data.records import read_records, text_of, write_lines
from mmpo.errors import UserError
from mmpo.files.atomic import write_text

PopeSplit = Literal["random", "popular", "adversarial"]
SPLITS: tuple[PopeSplit, ...] = ("random", "popular", "adversarial")

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
    labels: dict[tuple[str, str], PopeQuestion] = {}
    for number, (where, record) in enumerate(read_records(path), start=1):
        label = text_of(record, ("label",), where).strip().lower()
        if label not in ("yes", "no"):
            raise UserError(f"{where}: label {record['label']!r} is neither yes nor no")
        question_id = _question_id(record, where)
        question_id = number if question_id is None else question_id
        if question_id in seen:
            raise UserError(f"{where}: question id {question_id} is already used at {seen[question_id]}")
        seen[question_id] = where
        question = PopeQuestion(
            question_id=question_id,
            image=text_of(record, ("image", "image_name"), where),
            text=text_of(record, ("text", "query"), where),
            label="yes" if label == "yes" else "no",
            where=where,
        )
        same = labels.setdefault((question.image, question.text), question)
        if same.label != question.label:
            raise UserError(
                f"{where}: {question.text!r} about {question.image} has the label {question.label}, "
                f"and {same.label} at {same.where}"
            )
        questions.append(question)
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
    rows = (
        {"question_id": question.question_id, "question": question.text, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    )
    write_lines(path, rows)


def read_answers(path: str | Path) -> list[PopeAnswer]:
    """Read an answer file: the official one (`answer`, usually `question`) or LLaVA's (`question_id`, `prompt`,
    `text`).

    Raises UserError naming file and line; an empty answer is an answer.
    """
    answers = []
    for where, record in read_records(path):
        if "label" in record and not record.keys() & {
            "answer",
            "prompt",
            "question",
        }:  # LLaVA's answers have `text` too
            raise UserError(f"{where}: a question, not an answer", hint="is this the question file?")
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


def llava_split(answers: Iterable[PopeAnswer], split: PopeSplit) -> list[PopeAnswer]:
    """The answers of one split from LLaVA's single answer file, under the ids of the split's own question file."""
    picked = []
    for answer in answers:
        if answer.question_id is None:
            raise UserError(f"{answer.where}: no `question_id`, so its split is unknown")
        local = answer.question_id % 10_000_000
        if answer.question_id - local == LLAVA_ID_OFFSETS[split]:
            picked.append(PopeAnswer(answer.text, local, answer.question, answer.where))
    return picked


def packed_splits(answers: Sequence[PopeAnswer]) -> list[PopeSplit]:
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
    return dict(sorted(splits.items(), key=lambda item: (SPLITS.index(item[0]) if item[0] in SPLITS else 9, item[0])))


def of_first_images(questions: Sequence[PopeQuestion], limit: int | None) -> list[PopeQuestion]:
    """The questions about the first `limit` images; all of them where it is None."""
    kept = set(list(dict.fromkeys(question.image for question in questions))[:limit])
    return [question for question in questions if question.image in kept]


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


def match(
    questions: Sequence[PopeQuestion], answers: Sequence[PopeAnswer]
) -> tuple[Sequence[PopeAnswer], Literal["question_id", "position"]]:
    """The answers in the order of the questions. Raises UserError where the numbers differ, an answer quotes another
    question or one id is answered twice.
    """
    _check_lengths(questions, answers)
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
        if answer.question is not None and not spelled(answer.question).startswith(spelled(question.text)):
            raise UserError(
                f"{answer.where}: answers {answer.question!r}, "
                f"but the question at {question.where or question.question_id} is {question.text!r}",
                hint="the answer file is of another version of the questions, or in another order",
            )
    return ordered, "question_id" if joined else "position"


def spelled(text: str) -> str:
    """The text with the typing error of the files before October 2023 put right, so that either version quotes the
    other.
    """
    return text.strip().replace("an imange", "an image").replace("the imange", "the image")
