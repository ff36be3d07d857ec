"""Object HalBench (Yu et al. 2023, RLHF-V, arXiv 2312.00849): files, ground truth and metrics.

CHAIR on 300 detailed descriptions of COCO images with a refined synonym table, per response and per mention. Which
objects an answer mentions is read from its words (the script without its judge) or from a list of objects that a text
model extracts (the published protocol; `mmpo.eval.object_halbench.judge`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.records import read_records, text_of, write_lines
from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Direction, Metric, Tally
from mmpo.statistics import ratio
from mmpo.text.object_words import BaseFormReader
from mmpo.text.vocabulary import CHAIR_DOUBLE_WORDS, ObjectVocabulary
from mmpo.text.word_forms import open_lemmatizer

ANSWERS = 300
"""The benchmark's number of answers; the script averages over fewer without a word when some are lost."""


NamedObject = tuple[str, str]
"""A word or phrase of an answer, and the object that it names."""


@dataclass(frozen=True)
class HalbenchQuestion:
    """One line of the question file; `image` is a path, or the picture itself in base64, or None."""

    image_id: str
    text: str
    image: str | None
    where: str


@dataclass(frozen=True)
class HalbenchAnswer:
    """One line of an answer file."""

    image_id: str
    text: str
    question: str
    where: str


@dataclass(frozen=True)
class HalRow:
    """One scored answer: what it names, the part of it that the image lacks, and the image's objects found and
    missed.
    """

    image_id: str
    text: str
    named: tuple[NamedObject, ...]
    hallucinated: tuple[NamedObject, ...]
    found: tuple[str, ...]
    missed: tuple[str, ...]


_ALL, _WRONG_ANSWERS, _WITH_OBJECTS, _MENTIONS, _WRONG, _FOUND, _PRESENT, _WORDS = range(8)


def _share(
    name: str,
    above: int,
    below: int,
    better: Direction,
    meaning: str,
    *,
    complement: bool = False,
    percent: bool = True,
    **shown: Any,
) -> Metric:
    def formula(counts: Any) -> Any:
        value = ratio(counts[..., above], counts[..., below])
        return 1 - value if complement else value

    independent = (above, below) if (above, below) == (_WRONG_ANSWERS, _ALL) else None
    return Metric(name, formula, better, meaning, percent, independent, lambda counts: counts[..., below], **shown)


METRICS = (
    _share(
        "CHAIRs",
        _WRONG_ANSWERS,
        _ALL,
        "lower",
        "share of answers that name an object which the image lacks",
        label="CHAIR_s",
        watched=True,
    ),
    _share(
        "CHAIRs_refine",
        _WRONG_ANSWERS,
        _WITH_OBJECTS,
        "lower",
        "the same, of the answers that name an object",
        headline=1,
        watched=True,
    ),
    _share(
        "CHAIRi",
        _WRONG,
        _MENTIONS,
        "lower",
        "of the objects named, the share that the image lacks",
        label="CHAIR_i",
        watched=True,
    ),
    _share("correct_rate", _WRONG_ANSWERS, _WITH_OBJECTS, "higher", "1 - CHAIRs_refine", complement=True),
    _share("object_correct_rate", _WRONG, _MENTIONS, "higher", "1 - CHAIR_i", complement=True),
    _share("obj_rec", _FOUND, _PRESENT, "higher", "of the objects that are there, the share that is named"),
    _share("avg_word_len", _WORDS, _ALL, "neither", "words of an answer", percent=False),
)
"""CHAIRs_refine is the published table's "Resp.", CHAIRi its "Mention"."""


def read_questions(path: str | Path) -> list[HalbenchQuestion]:
    """Read `{"image_id", "question", "image"}` lines. Raises UserError naming the line of a mistake."""
    questions: list[HalbenchQuestion] = []
    seen: dict[str, str] = {}
    for where, record in read_records(path):
        image_id = _image_id(record, where)
        if image_id in seen:
            raise UserError(f"{where}: image {image_id} is asked about at {seen[image_id]} already")
        seen[image_id] = where
        image = text_of(record, ("image",), where) if "image" in record else None
        questions.append(HalbenchQuestion(image_id, text_of(record, ("question",), where), image, where))
    return questions


def read_answers(path: str | Path, questions: Sequence[HalbenchQuestion] | None = None) -> list[HalbenchAnswer]:
    """Read `{"image_id", "question" or "prompt", "answer" or "text"}` lines; where they have no `image_id`, the
    questions give it by position. "Assistant:" is removed, as in the script.

    Raises UserError naming the line of a mistake, and where positions can't be right.
    """
    records = list(read_records(path))
    by_position = [where for where, record in records if "image_id" not in record]
    if by_position:
        if questions is None:
            raise UserError(f"{by_position[0]}: no `image_id`", hint="give the question file, which names the images")
        if len(questions) != len(records):
            raise UserError(f"{path} has {len(records)} answers without `image_id` to {len(questions)} questions")
    asked_about = {question.image_id: question.text for question in questions or ()}
    answers: list[HalbenchAnswer] = []
    seen: dict[str, str] = {}
    for number, (where, record) in enumerate(records):
        image_id = _image_id(record, where) if questions is None or "image_id" in record else questions[number].image_id
        if image_id in seen:
            raise UserError(f"{where}: image {image_id} is answered at {seen[image_id]} already")
        seen[image_id] = where
        text = text_of(record, ("answer", "text"), where).replace("Assistant:", "").strip()
        own = {"question", "prompt"} & record.keys()
        asked = text_of(record, ("question", "prompt"), where) if own else asked_about.get(image_id, "")
        answers.append(HalbenchAnswer(image_id, text, asked, where))
    return answers


def answer_reader(vocabulary: ObjectVocabulary, words: str = "noun-lemma") -> BaseFormReader:
    """The script's way to read words: base forms, and phrases of two neighbours, CHAIR's double words and the entries
    of two words. Entries of three (`stove top oven`) and capitals (`iPhone`) are never found in a text,
    as published.
    """
    phrases = dict(CHAIR_DOUBLE_WORDS) | {entry: entry for entry in vocabulary.entries if len(entry.split()) == 2}
    forms = open_lemmatizer(words, {word for entry in (*vocabulary.entries, *phrases) for word in entry.split()})
    return BaseFormReader(vocabulary, forms, phrases, published=True, unread=vocabulary.capitals)


def named_in_words(answers: Sequence[HalbenchAnswer], reader: BaseFormReader) -> list[tuple[NamedObject, ...]]:
    """The objects that each answer names by its own words, every occurrence."""
    readings = reader.read(answer.text for answer in answers)
    return [tuple((mention.word, mention.name) for mention in reading.mentions) for reading in readings]


def score(
    answers: Sequence[HalbenchAnswer], named: Sequence[Sequence[NamedObject]], truth: Mapping[str, Collection[str]]
) -> tuple[list[HalRow], Tally]:
    """Score what each answer names against the objects of its image (`truth`, by image id).

    Raises UserError where an image has no ground truth, or there is nothing to score.
    """
    if not answers:
        raise UserError("there are no answers to score")
    rows = []
    counts = np.zeros((len(answers), 8), dtype=np.int64)
    for number, (answer, names) in enumerate(zip(answers, named, strict=True)):
        if answer.image_id not in truth:
            raise UserError(
                f"{answer.where}: image {answer.image_id} has no ground-truth objects",
                hint="add it, with an empty list if it shows nothing",
            )
        present = tuple(dict.fromkeys(truth[answer.image_id]))
        wrong = tuple(name for name in names if name[1] not in present)
        mentioned = {name for _, name in names}
        found = tuple(name for name in present if name in mentioned)
        missed = tuple(name for name in present if name not in mentioned)
        rows.append(HalRow(answer.image_id, answer.text, tuple(names), wrong, found, missed))
        counts[number] = (
            1, bool(wrong), bool(names), len(names), len(wrong), len(found), len(present), len(answer.text.split(" ")),
        )  # fmt: skip
    images = tuple(row.image_id for row in rows)
    outcomes = {row.image_id: not row.hallucinated for row in rows}
    return rows, Tally(images, counts, METRICS, outcomes, paired_metric="CHAIRs")


def write_rows(path: str | Path, rows: Sequence[HalRow]) -> None:
    """Write one JSON line an answer: what it names, what of that the image lacks, objects found and missed."""
    found = (
        {
            "image_id": row.image_id,
            "answer": row.text,
            "named": row.named,
            "hallucinated": row.hallucinated,
            "found": row.found,
            "missed": row.missed,
        }
        for row in rows
    )
    write_lines(path, found)


def _image_id(record: Mapping[str, Any], where: str) -> str:
    value = record.get("image_id")
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise UserError(f"{where}: `image_id` must be a number or a name, found {value!r}")
    return str(value)
