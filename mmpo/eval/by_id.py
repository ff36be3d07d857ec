"""Scorers for plug-ins' lists of questions (`mmpo.eval.task.QuestionTask`) that have none of their own: in
`mmpo eval score` rows of `id` and `answer` are joined to the questions and scored by the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from mmpo.errors import UserError
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.context import annotated_set
from mmpo.eval.descriptions import annotated_images
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import Scored, Scorer, ScoreRequest, answers_by_id, of_answers
from mmpo.eval.section import ADDED, Section
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Benchmark, Context, JudgedTask, QuestionTask, named
from mmpo.outside import Unreadable, yaml_of


def scorers_by_id() -> dict[str, Scorer]:
    """A scorer for each list of questions that no model judges. Its options are the benchmark's settings."""
    found = {}
    for one in map(named, ADDED):
        if issubclass(one.task, QuestionTask) and not issubclass(one.task, JudgedTask):
            options = {name: field.description or "" for name, field in one.settings.model_fields.items()}
            found[one.name] = Scorer(one.name, partial(_score, one), (), (), options)
    return found


def _score(one: Benchmark, request: ScoreRequest) -> Scored:
    images = None if request.annotations is None else annotated_images(request.annotations)
    ready = None if images is None else annotated_set(images, ChairSettings())
    task = one.ready(_settings(one, request.options), Context(ready))
    assert isinstance(task, QuestionTask)
    by_id = {task.id_of(question): question for question in task.questions}
    if len(by_id) < len(task.questions):
        raise UserError(f"{one.name}: several of its {len(task.questions)} questions have one id")
    answers, unknown = answers_by_id(request.answers, by_id, ("id",), ("answer", "text"))
    parts = task.parts([(by_id[name], Response(answers[name], False)) for name in by_id if name in answers])
    metrics: dict[str, Any] = {}
    bounds: dict[str, Any] = {}
    for part in parts:
        for found, numbers in ((metrics, part.tally.shown()), (bounds, intervals(part.tally))):
            found.update(numbers if part.split is None else {part.split: numbers})
    counted = [part for part in parts if not part.total and not part.view] or parts[:1]
    unread = sum(part.unparsed or 0 for part in counted)
    scored = of_answers(metrics, task.conventions, len(answers), len(by_id), unknown, unread)
    readable = sum(part.questions if part.readable_of is None else part.readable_of for part in counted)
    return replace(scored, intervals=bounds, readable_of=readable, warnings=[*scored.warnings, *task.warnings])


def _settings(one: Benchmark, options: Mapping[str, str]) -> Section:
    try:
        return one.settings.model_validate({key: yaml_of(text) for key, text in options.items()})
    except Unreadable as error:
        raise error.at("--set", lines=False) from None
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"--set {'.'.join(map(str, first['loc']))}: {message}") from None
