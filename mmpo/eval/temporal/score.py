"""VideoHallucer and TempCompass on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.protocol import Part, Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.temporal.judge import rated_by
from mmpo.eval.temporal.metrics import HALLUCER, MEANS, PARSERS, TemporalBenchmark, TemporalQuestion, by, pairs, read
from mmpo.eval.temporal.settings import TemporalSettings
from mmpo.eval.temporal.task import Temporal
from mmpo.eval.temporal.videohallucer import LEADERBOARD, published_bias
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
AVERAGED: dict[TemporalBenchmark, str] = {
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
    failed = sum(q.rating is not None and q.rating < 0 for q in scored)
    if missing:
        notes.append(f"{missing} questions have no prediction and count as wrong")
    if failed:
        notes.append(f"{failed} ratings are -1, calls that failed; the published sum adds them as -1, and so does this")
    task = Temporal.on(scored, TemporalSettings.model_validate({"parser": parser}))
    task.kind = kind
    part = _part(task, scored)
    numbers: dict[str, Any] = _numbers(task, part)
    if "meta" in request.options:
        numbers["fine"] = _fine(Path(request.options["meta"]), task)
    return Scored(
        metrics=numbers,
        conventions=[f"percent; {RULES[kind, parser]}; {AVERAGED[kind]}; what no rule reads counts as wrong"],
        read=len(questions),
        scored=part.questions,
        unparsed=(part.unparsed or 0) - missing,
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
        if unknown := next((name for name in names if name not in known), None):
            raise UserError(f"{request.answers}: the question {unknown} is not in {request.questions}")
        answers = [_joined(question, names.get(_place(question, one_file)), request.answers) for question in asked]
    return answers, sum(answer.prediction is None and answer.rating is None for answer in answers), notes


def _place(question: TemporalQuestion, one_file: bool) -> str:
    """The question's id; without its set or task where both sides hold only that one, as file names may differ."""
    return question.id.partition("/")[2] if one_file else question.id


def _joined(question: TemporalQuestion, answer: TemporalQuestion | None, path: Path) -> TemporalQuestion:
    if answer is None:
        return question
    if answer.question and answer.question.strip() != question.question.strip():
        raise UserError(f"{path}: {answer.id} answers another question: {answer.question!r}, not {question.question!r}")
    return replace(question, prediction=answer.prediction, rating=answer.rating)


def _part(task: Temporal, questions: Sequence[TemporalQuestion]) -> Part:
    """Some of the questions scored; those without a prediction have an empty response."""
    (part,) = task.parts([(question, Response(question.prediction or "", False)) for question in questions])
    return part


def _shown(part: Part) -> dict[str, Any]:
    """The numbers of one part, in percent; VideoHallucer's over all its pairs."""
    values = {name: 100 * value for name, value in part.tally.values.items()}
    if "accuracy" in values:
        return {
            "accuracy": 100 * float(part.tally.counts[:, 0].sum()) / part.questions,
            "right": sum(part.tally.outcomes.values()),
            "matched": part.questions - (part.unparsed or 0),
            "questions": part.questions,
        }
    found = {metric.name: values.get(f"{metric.name}_over_pairs", values[metric.name]) for metric in HALLUCER}
    return {**found, "pairs": len(part.tally.outcomes), "questions": part.questions}


def _numbers(task: Temporal, whole: Part) -> dict[str, Any]:
    """All numbers, over everything, by category, and by VideoHallucer's sets or TempCompass's tasks.

    VideoHallucer's `basic`, `hallucination` and `overall` are unweighted means over the sets, as published;
    `over_pairs` has the means over all pairs, `leaderboard` the mean over its five sets where all are there.
    """
    numbers = _shown(whole)
    categories, parts = (
        {name: _shown(_part(task, group)) for name, group in by(task.questions, key).items() if name}
        for key in (lambda q: q.category, lambda q: q.part)
    )
    if task.kind == "tempcompass":
        return {**numbers, "categories": categories, "tasks": parts}
    numbers["bias_published"] = published_bias(pairs(task.questions, task.settings.parser))
    numbers["categories"] = categories
    if not parts or not all(question.part for question in task.questions):
        return numbers  # not the published sets
    numbers["sets"] = parts
    numbers["over_pairs"] = {name: numbers[name] for name in MEANS}
    numbers |= {name: sum(one[name] for one in parts.values()) / len(parts) for name in MEANS}
    if set(LEADERBOARD) <= set(parts):
        numbers["leaderboard"] = sum(parts[name]["overall"] for name in LEADERBOARD) / len(LEADERBOARD)
    return numbers


def _fine(path: Path, task: Temporal) -> dict[str, Any]:
    """Accuracy by TempCompass's finer aspects, from its `meta_info.json`."""

    def aspect(question: TemporalQuestion) -> str:
        about = meta[question.video]["eval_dim"][question.category] or {}
        return str(about.get("type", question.category))

    try:
        meta = json_of(read_text(path))
        aspects = by(task.questions, aspect)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not TempCompass's meta_info.json ({error})",
            hint="it has {video: {eval_dim: {dimension: {type}}}}",
        ) from None
    whole = {name: _shown(_part(task, group)) for name, group in sorted(aspects.items())}
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
