"""The answers of an evaluation as a source of items: one for each question, with what the model said before and after,
those that it got wrong after having been right first. People say whether the label is right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.errors import UserError
from mmpo.files.atomic import read_json, read_jsonl
from mmpo.report.cards import AnswerCard, AnswerChange, ModelAnswer
from mmpo.review.items import LABEL_CHOICES, PictureList, QueueRows, ReviewItem, content_digest, plain

ANSWERS = "answers.jsonl"
WORST_FIRST: tuple[AnswerChange | None, ...] = ("broken", "fixed", "wrong", None, "right")
STATES = ("before", "after")


@dataclass(frozen=True)
class GradedQuestion:
    """A question of a benchmark, the answer it `expected`, and the rows of `answers.jsonl` by state."""

    benchmark: str
    split: str
    image: str
    more: tuple[str, ...]
    prompt: str
    expected: str
    root: str | None
    said: Mapping[str, Mapping[str, Any]]

    @property
    def id(self) -> str:
        return "/".join(part for part in (self.benchmark, self.split, self.image, *self.more, self.prompt) if part)

    @property
    def outcome(self) -> AnswerChange | None:
        """What became of it; None where nobody can say."""
        rights = [row.get("right") for row in self.said.values()]
        if None in rights:
            return None
        if rights[0] == rights[-1]:
            return "right" if rights[0] else "wrong"
        return "broken" if rights[0] else "fixed"


def graded_questions(folder: Path) -> list[GradedQuestion]:
    """The questions of an evaluation's `answers.jsonl` that a benchmark graded. UserError where there are none."""
    found: dict[tuple[str, str, str, tuple[str, ...], str, str, str | None], dict[str, Mapping[str, Any]]] = {}
    for row in read_jsonl(folder / ANSWERS):
        for grade in (row, *(row.get("also") or ())):
            if grade.get("benchmark") is None or grade.get("expected") is None:
                continue
            key = (
                grade["benchmark"], grade.get("split") or "", row["image"], tuple(row.get("more") or ()), row["prompt"],
                str(grade["expected"]), row.get("root"),
            )  # fmt: skip
            graded = {**row, "parsed": grade.get("parsed"), "right": grade.get("right")}
            found.setdefault(key, {})[row.get("state", "after")] = graded
    if not found:
        raise UserError(
            f"{folder}: its answers say nothing of right and wrong",
            hint="run mmpo eval on it again: no answer is asked twice",
        )
    return [
        GradedQuestion(*key, {state: said[state] for state in STATES if state in said}) for key, said in found.items()
    ]


class AnswerSource:
    """The graded questions of an evaluation's folder."""

    noun, choices = "question", LABEL_CHOICES

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        self.folder = folder
        self.root = images or _images(folder)
        self.questions = graded_questions(folder)

    def __len__(self) -> int:
        return len(self.questions)

    def order(self) -> QueueRows:
        ranks = [WORST_FIRST.index(question.outcome) for question in self.questions]
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
            question.outcome,
        )  # fmt: skip
        return ReviewItem(question.id, question_digest(question), card, pictures=tuple(pictures.pictures))


def question_digest(question: GradedQuestion) -> str:
    """The name of what a label's reviewer decides about: question and label, whatever a model said."""
    return content_digest([question.id, question.expected])


def _images(folder: Path) -> Path:
    """The folder that the pictures of an evaluation are in, by its settings."""
    step = folder / "step.json"
    settings = read_json(step).get("settings", {}) if step.is_file() else {}
    if images := settings.get("images"):
        found = Path(str(images).replace("${run}", str(folder.parent)))
    elif annotations := settings.get("annotations"):
        found = Path(str(annotations).replace("${run}", str(folder.parent))).parent
    else:
        found = folder
    return found
