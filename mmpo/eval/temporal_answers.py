"""VideoHallucer and TempCompass on answers made elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.temporal import Kind, TemporalQuestion, is_right, metrics, read


def _score(kind: Kind, request: ScoreRequest) -> Scored:
    found, answers = read(request.answers)
    if found != kind:
        raise UserError(f"{request.answers} is a file of {found}, not of {kind}")
    questions, missing = _completed(kind, request, answers)
    unread = [q for q in questions if (q.prediction is not None or q.rating is not None) and is_right(kind, q) is None]
    warnings = [f"{missing} questions have no prediction and count as wrong"] if missing else []
    rule: dict[Kind, str] = {
        "videohallucer": "the first word yes or no of a prediction decides; a pair is right where both answers are",
        "tempcompass": "the file's own ratings where it has them, else its rules without a language model (equal, yes "
        "or no at the beginning, a letter); the mean is over questions, not over dimensions",
    }
    numbers: dict[str, Any] = metrics(kind, questions)
    return Scored(
        metrics=numbers,
        conventions=[f"percent; {rule[kind]}; what no rule reads counts as wrong"],
        read=len(questions),
        scored=len(questions),
        unparsed=len(unread),
        warnings=warnings,
    )


def _completed(
    kind: Kind, request: ScoreRequest, answers: list[TemporalQuestion]
) -> tuple[list[TemporalQuestion], int]:
    """The questions (of --questions, else of the answer file) with predictions; and how many have none."""
    if request.questions is not None:
        asked_kind, asked = read(request.questions)
        if asked_kind != kind:
            raise UserError(f"{request.questions} is a file of {asked_kind}, not of {kind}")
        given = {answer.id: answer for answer in answers}
        answers = [
            replace(question, prediction=given[question.id].prediction, rating=given[question.id].rating)
            if question.id in given
            else question
            for question in asked
        ]
    return answers, sum(answer.prediction is None and answer.rating is None for answer in answers)


@scorer("videohallucer")
def score_videohallucer(request: ScoreRequest) -> Scored:
    """VideoHallucer: a file or a folder of files, pairs with `predict` in each half."""
    return _score("videohallucer", request)


@scorer("tempcompass")
def score_tempcompass(request: ScoreRequest) -> Scored:
    """TempCompass: predictions or its own evaluation results."""
    return _score("tempcompass", request)
