"""The answers of an evaluation as a source of items: one for each question, with what the model said before and after,
those that it got wrong after having been right first. People say whether the label is right."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.graded import AnswerChange, GradedQuestion, graded_questions, pictures_of
from mmpo.report.cards import AnswerCard, ModelAnswer
from mmpo.review.items import LABEL_CHOICES, PictureList, QueueRows, ReviewItem, content_digest, plain

WORST_FIRST: tuple[AnswerChange | None, ...] = ("broken", "fixed", "wrong", None, "right")


def questions_to_review(folder: Path) -> list[GradedQuestion]:
    """The graded questions that have a label. UserError where there are none."""
    found = [one for one in graded_questions(folder) if one.expected]
    if not found:
        raise UserError(
            f"{folder}: its answers say nothing of right and wrong",
            hint="run mmpo eval on it again: no answer is asked twice",
        )
    return found


class AnswerSource:
    """The graded questions of an evaluation's folder."""

    noun, choices = "question", LABEL_CHOICES

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        self.folder = folder
        self.root = images or pictures_of(folder) or folder
        self.questions = questions_to_review(folder)

    def __len__(self) -> int:
        return len(self.questions)

    def order(self) -> QueueRows:
        ranks = [WORST_FIRST.index(_outcome(question)) for question in self.questions]
        return np.argsort(ranks, kind="stable")

    def rows_of(self, ids: Collection[str]) -> dict[str, int]:
        return {one.id: row for row, one in enumerate(self.questions) if one.id in ids}

    def item(self, row: int) -> ReviewItem:
        question = self.questions[row]
        pictures = PictureList(row, Path(question.root) if question.root else self.root)
        shown = tuple(pictures.show(image, "Picture of the question") for image in (question.image, *question.more))
        answers = tuple(
            ModelAnswer(
                state, plain(said["answer"]), said.get("parsed"), said.get("right"), said.get("p_yes"),
                bool(said.get("truncated")),
            )
            for state, said in question.said.items()
        )  # fmt: skip
        card = AnswerCard(
            question.id, question.benchmark, question.split, question.prompt, question.expected, shown, answers,
            question.change,
        )  # fmt: skip
        return ReviewItem(question.id, question_digest(question), card, pictures=tuple(pictures.pictures))


def _outcome(question: GradedQuestion) -> AnswerChange | None:
    """How it went, also where only one model was asked."""
    alone = question.rights[0] if len(question.rights) == 1 else None
    return question.change if alone is None else "right" if alone else "wrong"


def question_digest(question: GradedQuestion) -> str:
    """The name of what a label's reviewer decides about: question and label, whatever a model said."""
    return content_digest([question.id, question.expected])
