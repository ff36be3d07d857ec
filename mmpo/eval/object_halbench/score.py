"""Object HalBench on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from mmpo.chat import judging
from mmpo.chat.judging import Judgement
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.image_ids import by_names
from mmpo.eval.object_halbench.judge import TEMPLATE, named_by_model
from mmpo.eval.object_halbench.metrics import ANSWERS, HalbenchQuestion, read_answers, read_questions, write_rows
from mmpo.eval.object_halbench.settings import ObjectHalBenchSettings
from mmpo.eval.object_halbench.task import OWN_WORDS, ObjectHalBench, objects_and_reader
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.text.word_forms import FormName


@scorer(
    "object_halbench",
    parsers=judging.MODES[::-1],
    needs=("annotations",),
    options={
        "vocabulary": "the refined synonyms (synonyms_refine.txt) or another file, coco, or auto",
        "words": f"the rule for word forms (noun-lemma), one of {', '.join(get_args(FormName))}",
        "captions": "COCO's captions file, where the annotations are an instances file",
        "template": f"the judge's prompt, a packaged name or a .j2 file ({TEMPLATE})",
        "temperature": "the judge's (0; the published protocol has 0.2)",
        "sentences": "file to write, what every answer names",
    },
)
def score_object_halbench(request: ScoreRequest) -> Scored:
    """Rates in percent; with a judge the objects are those that it lists, without one the answers' own words."""
    assert request.annotations is not None
    options = request.options
    asked = read_questions(request.questions) if request.questions is not None else None
    answers = read_answers(request.answers, asked)
    questions = [HalbenchQuestion(answer.image_id, answer.question, None, answer.where) for answer in answers]
    given = [(question, Response(answer.text, False)) for question, answer in zip(questions, answers, strict=True)]
    own: dict[str, Any] = {key: value for key, value in options.items() if key not in ("sentences", "temperature")}
    settings = ObjectHalBenchSettings.model_construct(  # what is wrong is said by whoever uses it
        parser=request.parser or "tolerant",
        temperature=0.0 if request.judge is None else _temperature(options),
        **own,
    )
    task = ObjectHalBench.on(questions, settings)
    truth, task.reader, _ = objects_and_reader(request.annotations, settings)
    task.truth = by_names((answer.image_id for answer in answers), truth)
    judgements: list[Judgement[list[str]]] = []
    if request.judge is None:
        task.by_model, extraction = False, OWN_WORDS
        named = task.judged(given)
    else:
        named, judgements = named_by_model(request.judge, answers, task.reader, settings)
        extraction = (
            f"objects listed by {request.judge.identity} with {template_version(settings.template)}, read by the "
            f"{settings.parser} rule, each once an answer"
        )
    unread = judging.unparsed(judgements)
    quarantined = judging.failures(judgements) | ({"judge_unparsed": unread} if unread else {})
    if all(names is None for names in named):
        raise UserError(f"none of the {len(answers)} answers can be scored: {quarantined}")
    (part,) = task.parts(given, named)
    rows, _ = task.scored(given, named)
    if "sentences" in options:
        write_rows(options["sentences"], rows)
    warnings = [f"{name} is undefined (nothing to divide by)" for name in part.tally.undefined]
    if len(rows) != ANSWERS:
        warnings.append(f"{len(rows)} answers are scored; the benchmark has {ANSWERS}")
    if unread:
        warnings.append(f"{unread} judge replies hold no list of objects; their answers are left out")
    warnings += judging.not_judged(judgements)
    return Scored(
        metrics={
            **part.tally.shown(percent=True),
            "with_objects": sum(bool(row.named) for row in rows),
            "mentions": sum(len(row.named) for row in rows),
        },
        conventions=[
            "Object HalBench: rates in percent; CHAIRs_refine (published as Resp.) is over answers with an object, "
            "CHAIRi (published as Mention) over mentions",
            extraction,
            f"word forms: {task.reader.identity}",
            f"vocabulary: {settings.vocabulary} ({len(task.reader.vocabulary)} objects)",
        ],
        read=len(answers),
        scored=len(rows),
        quarantined=quarantined,
        warnings=warnings,
        intervals=intervals(part.tally, percent=True),
    )


def _temperature(options: Mapping[str, str]) -> float:
    text = options.get("temperature", "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise UserError(f"temperature must be a number of at least 0, got {text!r}")
    return value
