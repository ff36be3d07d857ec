"""MME answers made elsewhere, scored: the scoring tool's folder, or JSON Lines beside the questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.mme.files import join, read_questions, read_row_answers, read_tool_answers
from mmpo.eval.mme.metrics import GROUPS, IMAGES, PARSERS, MmeQuestion, SubtaskResult, group_tally, sums
from mmpo.eval.mme.settings import MmeSettings
from mmpo.eval.mme.task import Mme
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals

_RULES = {
    "official": "yes or no within the first four characters, else neither",
    "lmms-eval": "as official, after stripping spaces and full stops; y and n alone count",
    "vlmevalkit": "the word yes or the word no anywhere, not both, else neither",
}


@scorer(
    "mme",
    parsers=tuple(PARSERS),
    options={"pairs": "`positional`: two neighbouring lines are a pair, whatever their images (the published script)"},
)
def score_mme(request: ScoreRequest) -> Scored:
    """MME from a folder of the scoring tool, or from questions and an answer file."""
    choice = request.options.get("pairs", "image")
    if choice not in ("image", "positional"):
        raise UserError(f"pairs={choice!r}", hint="leave it out, or pairs=positional")
    parser = request.parser or "official"
    warnings: list[str] = []
    if request.answers.is_dir():
        questions, answers, tabs = read_tool_answers(request.answers)
        texts = [answer.text for answer in answers]
        if tabs:
            warnings.append(f"{tabs:,} responses hold tabs, on which the published script stops; they are read whole")
        if request.questions is not None:
            _agree(questions, read_questions(request.questions))
    else:
        if request.questions is None:
            raise UserError(
                "an MME answer file needs --questions",
                hint="a folder of the scoring tool, of the benchmark, or Hugging Face rows; "
                "a folder of the tool with the responses filled in needs none",
            )
        questions = read_questions(request.questions)
        texts = join(questions, read_row_answers(request.answers))
    given = [(question, Response(text, False)) for question, text in zip(questions, texts, strict=True)]
    task = Mme.on(questions, MmeSettings.model_validate({"parser": parser}))
    results = task.results(given, positional=choice == "positional")
    metrics, more = _metrics(results)
    return Scored(
        metrics=metrics,
        conventions=[
            f"parser {parser}: {_RULES[parser]}; neither counts as wrong",
            "a pair is " + ("the two questions of an image" if choice == "image" else "two neighbouring lines"),
            "acc: share of right answers; acc+: share of images with both right; score: 100 acc + 100 acc+; "
            "perception, cognition, hallucination and total are sums of scores",
            "TP, FN, TN, FP, precision and recall leave out answers that are neither (the published script counts so)",
        ],
        read=len(texts),
        scored=len(texts),
        unparsed=sum(result.other for result in results.values()),
        warnings=warnings + more,
        intervals={
            **{group: intervals(t)["score"] for group in GROUPS if (t := group_tally(results, group)) is not None},
            **{name: intervals(result.tally) for name, result in results.items()},
        },
    )


def _metrics(results: dict[str, SubtaskResult]) -> tuple[dict[str, Any], list[str]]:
    """The numbers, and what a reader should know about them."""
    metrics: dict[str, Any] = dict(sums(results))
    warnings: list[str] = []
    for group, members in GROUPS.items():
        missing = [name for name in members if name not in results]
        if 0 < len(missing) < len(members):
            warnings.append(f"{group} is incomplete, so it has no sum: {', '.join(missing)} missing")
    for name, result in results.items():
        metrics[name] = result.metrics
        images = len(result.tally.images)
        if images != IMAGES[name]:
            warnings.append(f"{name}: {images} images; the published benchmark has {IMAGES[name]}")
        if result.other:
            warnings.append(f"{name}: {result.other} of {len(result.verdicts)} answers are neither yes nor no")
    apart = {
        name: r.positional for name, r in results.items()
        if r.positional is None or abs(r.positional - r.tally.values["score"]) > 1e-9
    }  # fmt: skip
    if apart:
        metrics["published_script"] = {**sums(results, positional=True), **apart}
        warnings.append(
            f"the published script would give other numbers for {', '.join(apart)} (see published_script): it takes "
            "neighbouring lines as a pair, and here these are not always about one image"
        )
    return metrics, warnings


def _agree(answered: Sequence[MmeQuestion], published: Sequence[MmeQuestion]) -> None:
    """Raises UserError where an answer folder asks something else than the question files, or labels it otherwise."""
    labels = {question.key: question for question in published}
    for question in answered:
        original = labels.pop(question.key, None)
        if original is None:
            raise UserError(f"{question.where}: {question.text!r} is not in the question files")
        if original.label != question.label:
            raise UserError(f"{question.where}: label {question.label}, but {original.label} at {original.where}")
    if labels:
        left = next(iter(labels.values()))
        raise UserError(f"{len(labels)} questions have no answer; the first is {left.text!r} at {left.where}")
