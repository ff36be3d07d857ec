"""VideoHallucer and TempCompass on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.temporal.judge import rated_by
from mmpo.eval.temporal.metrics import PARSERS, TemporalBenchmark, TemporalQuestion, is_right, metrics, read
from mmpo.outside import json_of, read_text

NO_RATING = "caption_without_rating"
RULES = {
    ("videohallucer", "official"): "an answer is right where it holds the right word, yes or no, anywhere (published)",
    ("videohallucer", "first-word"): "the first word yes or no of an answer decides",
    ("tempcompass", "official"): "the file's own ratings where it has them, else the published rule of each task "
    "without a language model",
    ("tempcompass", "tolerant"): "the file's own ratings where it has them, else the published rules, and beyond them "
    "equal texts in any case and letters before a colon",
}
MEANS: dict[TemporalBenchmark, str] = {
    "videohallucer": "a pair is right where both answers are; basic, hallucination and overall are unweighted means "
    "over the sets",
    "tempcompass": "the mean is over questions, not over dimensions",
}


def _score(kind: TemporalBenchmark, request: ScoreRequest) -> Scored:
    found, answers = read(request.answers)
    if found != kind:
        raise UserError(f"{request.answers} is a file of {found}, not of {kind}")
    parser = request.parser or PARSERS[kind][0]
    questions, missing, notes = _completed(kind, request, answers)
    if kind == "tempcompass" and request.judge is not None:
        questions, judged = rated_by(request.judge, questions, parser, request)
        notes += judged
    captions = [q for q in questions if q.part == "captioning" and q.rating is None]
    scored = [q for q in questions if q not in captions] if captions else questions
    if not scored:
        raise UserError(
            f"{request.answers}: {len(captions)} captions without ratings, which no rule can read",
            hint="score the file with ratings that TempCompass's eval_captioning.py writes, or name a --judge",
        )
    if captions:
        notes.append(f"{len(captions)} captions have no rating and are left out; a --judge rates them")
    unread = sum(is_right(kind, q, parser) is None for q in scored if q.prediction is not None)
    failed = sum(q.rating is not None and q.rating < 0 for q in scored)
    if missing:
        notes.append(f"{missing} questions have no prediction and count as wrong")
    if failed:
        notes.append(f"{failed} ratings are -1, calls that failed; the published sum adds them as -1, and so does this")
    numbers: dict[str, Any] = metrics(kind, scored, parser)
    if "meta" in request.options:
        numbers["fine"] = _fine(Path(request.options["meta"]), scored, parser)
    return Scored(
        metrics=numbers,
        conventions=[f"percent; {RULES[kind, parser]}; {MEANS[kind]}; what no rule reads counts as wrong"],
        read=len(questions),
        scored=len(scored),
        unparsed=unread,
        readable_of=len(scored) - missing,
        quarantined={NO_RATING: len(captions)} if captions else {},
        warnings=notes,
    )


def _completed(
    kind: TemporalBenchmark, request: ScoreRequest, answers: list[TemporalQuestion]
) -> tuple[list[TemporalQuestion], int, list[str]]:
    """The questions (of --questions, else of the answer file) with predictions; how many have none; and notes.

    Sets and tasks without any answer are left out with a note. Raises UserError for answers to other questions.
    """
    notes: list[str] = []
    if request.questions is not None:
        asked_kind, asked = read(request.questions)
        if asked_kind != kind:
            raise UserError(f"{request.questions} is a file of {asked_kind}, not of {kind}")
        parts = {answer.part for answer in answers}
        if one_file := len({question.part for question in asked}) == len(parts) == 1:
            parts = {question.part for question in asked}
        names = {_place(answer, one_file): answer for answer in answers}
        left_out = sorted({question.part for question in asked} - parts)
        if left_out:
            notes.append(f"no answers to {', '.join(left_out)}: not part of the numbers")
        asked = [question for question in asked if question.part in parts]
        known = {_place(question, one_file) for question in asked}
        if stranger := next((name for name in names if name not in known), None):
            raise UserError(f"{request.answers}: the question {stranger} is not in {request.questions}")
        answers = [_joined(question, names.get(_place(question, one_file)), request.answers) for question in asked]
    return answers, sum(answer.prediction is None and answer.rating is None for answer in answers), notes


def _place(question: TemporalQuestion, one_file: bool) -> str:
    """Which question it is; where both sides are one set or task, whatever their files are called."""
    return question.id.partition("/")[2] if one_file else question.id


def _joined(question: TemporalQuestion, answer: TemporalQuestion | None, path: Path) -> TemporalQuestion:
    if answer is None:
        return question
    if answer.question and answer.question.strip() != question.question.strip():
        raise UserError(f"{path}: {answer.id} answers another question: {answer.question!r}, not {question.question!r}")
    return replace(question, prediction=answer.prediction, rating=answer.rating)


def _fine(path: Path, questions: Sequence[TemporalQuestion], parser: str) -> dict[str, Any]:
    """Accuracy by TempCompass's finer aspects, from its `meta_info.json`."""
    try:
        meta = json_of(read_text(path))
        aspects: dict[str, list[TemporalQuestion]] = {}
        for question in questions:
            about = meta[question.video]["eval_dim"][question.category] or {}
            aspects.setdefault(str(about.get("type", question.category)), []).append(question)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not TempCompass's meta_info.json ({error})",
            hint="it has {video: {eval_dim: {dimension: {type}}}}",
        ) from None
    whole = {name: metrics("tempcompass", group, parser) for name, group in sorted(aspects.items())}
    return {name: {key: row[key] for key in ("accuracy", "right", "questions")} for name, row in whole.items()}


@scorer("videohallucer", parsers=PARSERS["videohallucer"])
def score_videohallucer(request: ScoreRequest) -> Scored:
    """VideoHallucer: a file or a folder of files (a set each, told by its name), pairs with `predict` in each half."""
    return _score("videohallucer", request)


@scorer(
    "tempcompass",
    parsers=PARSERS["tempcompass"],
    options={
        "meta": "TempCompass's meta_info.json: accuracy by its finer aspects too",
        "multi_choice": "with a judge: the file of multiple-choice questions, for captions (found in --questions too)",
    },
)
def score_tempcompass(request: ScoreRequest) -> Scored:
    """TempCompass: predictions or its own rated files. With a judge, what no rule reads, captions too, is asked."""
    return _score("tempcompass", request)
