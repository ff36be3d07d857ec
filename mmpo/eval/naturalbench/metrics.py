"""NaturalBench (Li et al. 2024, arXiv:2410.14669): rows read, answers read by the authors' rule, groups counted.

A row has two pictures and two questions: question 0 is to be answered yes (A) about picture 0 and no (B) about picture
1, question 1 the other way round. Four answers make a group, in the order q0i0, q0i1, q1i0, q1i1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpo.data.records import text_of
from mmpo.errors import UserError
from mmpo.eval.embedded import PictureFolder, picture_of, read_rows
from mmpo.eval.statistics.tally import Tally, by_image, share
from mmpo.eval.yes_no import first_word

SUFFIXES = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
"""Behind each kind of question, without a blank: so the authors' script asks."""
WORDS = {"yes_no": {"yes": True, "no": False}, "multiple_choice": {"a": True, "b": False}}
"""What an answer's word means: the first option, or the second."""


@dataclass(frozen=True)
class NaturalQuestion:
    """Question `question` of a row about its picture `picture`, which is `image` below `root`; the right answer is the
    first option where the two numbers are equal."""

    row: str
    question: int
    picture: int
    text: str
    kind: str
    root: str = ""
    image: str = ""

    @property
    def id(self) -> str:
        return f"{self.row}_q{self.question}_i{self.picture}"

    @property
    def prompt(self) -> str:
        return self.text + SUFFIXES[self.kind]

    def is_right(self, answer: str) -> bool | None:
        """Whether an answer is right; None (wrong everywhere) where it has neither word."""
        read = first_word(answer, WORDS[self.kind])
        return None if read is None else read == (self.question == self.picture)


def read_questions(paths: Iterable[str | Path], pictures: PictureFolder | None = None) -> list[NaturalQuestion]:
    """Four questions of each row, in the published order; without `pictures` theirs are not read. Raises UserError
    naming a wrong row, also one whose right answers are not opposite."""
    found: list[NaturalQuestion] = []
    rows: set[str] = set()
    for path in paths:
        for where, row in read_rows(path):
            name = str(row.get("Index", "")).strip()
            kind = text_of(row, ("Question_Type",), where)
            if not name or name in rows:
                raise UserError(f"{where}: `Index` must be there, each once; found {name!r}")
            if kind not in SUFFIXES:
                raise UserError(f"{where}: `Question_Type` must be {' or '.join(SUFFIXES)}, found {kind!r}")
            rows.add(name)
            places = [
                ("", []) if pictures is None else pictures.placed([picture_of(row.get(f"Image_{number}"), where)])
                for number in (0, 1)
            ]
            for question in (0, 1):
                for picture, (root, image) in enumerate(places):
                    gold = text_of(row, (f"Image_{picture}_Question_{question}",), where).strip().lower()
                    if WORDS[kind].get(gold) is not (question == picture):
                        raise UserError(
                            f"{where}: the right answer to question {question} about picture {picture} is {gold!r}; "
                            "scoring rests on yes (A) for equal numbers and no (B) for others"
                        )
                    text = text_of(row, (f"Question_{question}",), where)
                    found.append(NaturalQuestion(name, question, picture, text, kind, root, *image))
    return found


METRICS = (
    share("group_accuracy", 6, 7, "higher", "rows with all four answers right", independent=True, headline=1),
    share("question_accuracy", 2, 3, "higher", "questions right about both pictures"),
    share("image_accuracy", 4, 5, "higher", "pictures with both questions right"),
    share("accuracy", 0, 1, "higher", "right answers"),
)
"""G-Acc, Q-Acc, I-Acc and Acc of the paper; guessing gives 6.25, 25, 25 and 50 %."""


def score(questions: Sequence[NaturalQuestion], texts: Sequence[str]) -> tuple[Tally, int]:
    """Counts by row, of rows that are complete, and how many answers have neither word."""
    read = [question.is_right(text) for question, text in zip(questions, texts, strict=True)]
    columns = np.zeros((len(questions), 4), dtype=np.int64)  # q0i0, q0i1, q1i0, q1i1: right
    for line, question, right in zip(columns, questions, read, strict=True):
        line[2 * question.question + question.picture] = bool(right)
    rows = np.c_[columns, np.ones(len(questions), dtype=np.int64)]
    names, sums = by_image([question.row for question in questions], rows)
    whole = sums[:, 4] == 4
    groups = sums[whole, :4]
    by_question = groups[:, [0, 2]] * groups[:, [1, 3]]
    by_picture = groups[:, [0, 1]] * groups[:, [2, 3]]
    ones = np.ones(len(groups), dtype=np.int64)
    counts = np.c_[
        groups.sum(1), 4 * ones, by_question.sum(1), 2 * ones, by_picture.sum(1), 2 * ones, groups.all(1), ones
    ].astype(np.int64)
    kept = tuple(name for name, one in zip(names, whole, strict=True) if one)
    known = set(kept)
    outcomes = {q.id: bool(r) for q, r in zip(questions, read, strict=True) if q.row in known}
    return Tally(kept, counts, METRICS, outcomes, "accuracy"), read.count(None)
