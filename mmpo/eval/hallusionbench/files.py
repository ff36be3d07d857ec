"""HallusionBench's published file: questions, with or without `model_prediction`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.hallusionbench.metrics import HallusionQuestion, Key
from mmpo.files.atomic import write_text


def read_questions(path: str | Path) -> list[HallusionQuestion]:
    """Read HallusionBench.json, with or without `model_prediction`. Raises UserError naming the entry."""
    questions: list[HallusionQuestion] = []
    seen: dict[Key, str] = {}
    for where, record in read_records(path):
        question = _question(record, where)
        if question.key in seen:
            raise UserError(f"{where}: question {'/'.join(question.key)} is already at {seen[question.key]}")
        seen[question.key] = where
        questions.append(question)
    return questions


def join(
    questions: Sequence[HallusionQuestion], answered: Sequence[HallusionQuestion], *, partial: bool = False
) -> tuple[list[HallusionQuestion], dict[str, int]]:
    """The questions with the predictions of an answer file, and how many predictions were left out, by reason.

    Raises UserError where a question is not answered, or an answer is to a question with other words. With `partial`
    these are left out instead.
    """
    known = {question.key: question for question in questions}
    joined: dict[Key, HallusionQuestion] = {}
    left_out: dict[str, int] = {}
    for one in answered:
        question = known.get(one.key)
        reason = "unknown_question" if question is None else ""
        if question is not None and question.question.strip() != one.question.strip():
            reason = "other_words"
        if reason and not partial:
            raise UserError(
                f"{one.where}: {'/'.join(one.key)} is {reason.replace('_', ' ')} in the question file",
                hint="are questions and answers of the same release? `--set partial=yes` leaves such answers out",
            )
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        elif question is not None:
            joined[one.key] = replace(question, prediction=one.prediction)
    missing = [question for question in questions if question.key not in joined]
    if missing and not partial:
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no answer, the first: {missing[0].where}",
            hint="`--set partial=yes` scores the rest",
        )
    return list(joined.values()), left_out


def write_predictions(path: str | Path, questions: Sequence[HallusionQuestion]) -> None:
    """Write the published form: the records with `model_prediction`."""
    rows = [
        {
            "category": one.category,
            "subcategory": one.subcategory,
            "visual_input": str(one.visual_input),
            "set_id": one.set_id,
            "figure_id": one.figure_id,
            "question_id": one.question_id,
            "question": one.question,
            "gt_answer_details": one.details,
            **({} if one.answer is None else {"gt_answer": "1" if one.answer == "yes" else "0"}),
            "filename": None if one.image is None else f"./{one.image}",
            "model_prediction": one.prediction,
        }
        for one in questions
    ]
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def _question(record: dict[str, Any], where: str) -> HallusionQuestion:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
    values = {}
    for name in names:
        if isinstance(record.get(name), bool) or not isinstance(record.get(name), (str, int)):
            raise UserError(f"{where}: no `{name}`; is this HallusionBench.json?")
        values[name] = str(record[name])
    if values["category"] not in ("VD", "VS") or values["visual_input"] not in ("0", "1", "2"):
        raise UserError(f"{where}: category must be VD or VS and visual_input 0, 1 or 2")
    answer = record.get("gt_answer")
    if answer is not None and str(answer) not in ("0", "1"):
        raise UserError(f"{where}: `gt_answer` must be 1 (yes) or 0 (no), found {answer!r}")
    prediction = record.get("model_prediction")
    if prediction is not None and not isinstance(prediction, str):
        raise UserError(f"{where}: `model_prediction` must be text, found {type(prediction).__name__}")
    return HallusionQuestion(
        category=values["category"],
        subcategory=values["subcategory"],
        set_id=values["set_id"],
        figure_id=values["figure_id"],
        question_id=values["question_id"],
        visual_input=int(values["visual_input"]),
        question=text_of(record, ("question",), where),
        details=text_of(record, ("gt_answer_details",), where),
        answer=None if answer is None else "yes" if str(answer) == "1" else "no",
        prediction=prediction,
        where=where,
    )
