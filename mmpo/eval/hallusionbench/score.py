"""HallusionBench on predictions made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmpo.chat import ChatModel
from mmpo.chat.judging import cut_off, failures, not_judged
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.hallusionbench import files
from mmpo.eval.hallusionbench import judge as hbj
from mmpo.eval.hallusionbench import metrics as hb
from mmpo.eval.hallusionbench.settings import HallusionBenchSettings
from mmpo.eval.hallusionbench.task import HallusionBench
from mmpo.eval.protocol import Part, Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.statistics.tally import Tally
from mmpo.eval.yes_no import PARSERS


@scorer(
    "hallusionbench",
    parsers=("strict", "tolerant"),
    options={
        "yes_no": f"without a judge: the rule that reads yes or no, one of {', '.join(PARSERS)} (vlmevalkit)",
        "question_set": "all, or image: only the questions with an image (all)",
        "attribution": "yes: the judge also compares answers, for the causes of errors (no)",
        "partial": "yes: leave out questions without an answer, and answers that fit no question (no)",
        "correct_template": f"the judge's prompt, a packaged name or a .j2 file ({hbj.CORRECT})",
        "same_template": f"the prompt of the comparison ({hbj.SAME})",
    },
)
def score_hallusionbench(request: ScoreRequest) -> Scored:
    """HallusionBench of a result file with `model_prediction`, alone or beside the question file; by the judge, or by
    yes and no where there is none.
    """
    settings = HallusionBenchSettings.model_construct(
        yes_no=request.options.get("yes_no", "vlmevalkit"),
        parser=request.parser or "strict",
        attribution=request.flag("attribution") or False,
        correct_template=request.options.get("correct_template", hbj.CORRECT),
        same_template=request.options.get("same_template", hbj.SAME),
    )
    answered, left_out = _answers(request)
    read = len(answered) + sum(left_out.values())
    if request.options.get("question_set", "all") == "image":
        answered = [question for question in answered if question.image is not None]
        left_out["without_image"] = read - len(answered) - sum(left_out.values())
    if not answered:
        raise UserError(f"{request.answers}: no question is left to score")
    given = [(question, Response(question.prediction or "", False)) for question in answered]
    task = HallusionBench.on(answered, settings)
    warnings: list[str] = []
    if request.judge is None:
        if settings.attribution:
            raise UserError("attribution needs --judge", hint="see docs/judges.md")
        task.by_model = False
        how = f"judged by yes and no, read by the {settings.yes_no} rule; neither is unclear"
        (part,) = task.parts(given)
    else:
        kept, verdicts, lost, warnings = _judged(request.judge, answered, settings)
        left_out = dict(Counter(left_out) + Counter(lost))
        if not kept:
            raise UserError(f"no answer was judged: {left_out}", hint="run again: replies that come are kept")
        how = f"judged by {request.judge.identity} with {template_version(settings.correct_template)}"
        how += f" and {template_version(settings.same_template)}" if settings.attribution else ""
        how += f", read by the {settings.parser} rule"
        (part,) = task.parts([given[place] for place in kept], verdicts)
    return _scored(part, how, read, left_out, warnings)


def _answers(request: ScoreRequest) -> tuple[list[hb.HallusionQuestion], dict[str, int]]:
    partial = request.flag("partial") or False
    answered = files.read_questions(request.answers)
    empty = [question for question in answered if question.prediction is None]
    if empty and not partial:
        raise UserError(f"{empty[0].where}: no `model_prediction`", hint="`--set partial=yes` scores the rest")
    left_out = {"no_prediction": len(empty)} if empty else {}
    answered = [question for question in answered if question.prediction is not None]
    if request.questions is not None:
        answered, others = files.join(files.read_questions(request.questions), answered, partial=partial)
        left_out.update(others)
    return answered, left_out


def _judged(
    chat: ChatModel, answered: Sequence[hb.HallusionQuestion], own: HallusionBenchSettings
) -> tuple[list[int], hbj.Verdicts, dict[str, int], list[str]]:
    """The places of the answers that were judged, the verdicts on these, how many others there are by reason, and
    warnings.
    """
    first = hbj.correctness(chat, answered, mode=own.parser, template=own.correct_template)
    second = hbj.sameness(chat, answered, mode=own.parser, template=own.same_template) if own.attribution else None
    both = list(zip(first, second or [None] * len(first), strict=True))
    failed = [next((one for one in pair if one is not None and one.failure is not None), None) for pair in both]
    kept = [place for place, one in enumerate(failed) if one is None]
    lost = [one for one in failed if one is not None]
    verdicts = hbj.verdicts([first[place] for place in kept], second and [second[place] for place in kept])
    said = not_judged(lost) + cut_off([*first, *(one for one in second or () if one is not None)])
    return kept, verdicts, failures(lost), said


def _scored(part: Part, how: str, read: int, left_out: Mapping[str, int], warned: Sequence[str]) -> Scored:
    warnings, unread = list(warned), part.unparsed or 0
    if part.questions != hb.QUESTIONS:
        warnings.append(f"{part.questions} questions; the benchmark has {hb.QUESTIONS}, 951 of them with an image")
    if unread:
        warnings.append(
            f"{unread} answers could not be read as right or wrong; unclear is wrong where an image is shown"
        )
    if any(name.startswith("judge_") for name in left_out):
        warnings.append("where answers are left out, groups are smaller and easier to get right")
    metrics = hb.metrics(part.tally)
    return Scored(
        metrics=metrics,
        conventions=[
            "accuracies in percent; groups by the full key (category, subcategory, set, question or figure); easy and "
            "hard are group accuracies despite their names; bias numbers are fractions",
            how,
        ],
        read=read,
        scored=part.questions,
        unparsed=unread,
        quarantined={name: count for name, count in sorted(left_out.items()) if count},
        warnings=warnings,
        intervals=_intervals(part.tally, metrics),
    )


def _intervals(tally: Tally, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of the accuracies and causes in percent and the bias as fractions, resampling whole sets of figures."""
    plain, percent = intervals(tally), intervals(tally, percent=True)
    found: dict[str, Any] = {name: percent[name] for name in percent if name.endswith("Acc")}
    if metrics["yes_no_bias"]["diff"] is not None:
        bias = {"diff": plain.get("yes_bias"), "fp_ratio": plain.get("fp_ratio")}
        found["yes_no_bias"] = {name: bounds for name, bounds in bias.items() if bounds is not None}
    if metrics["attribution"] is not None:
        found["attribution"] = {name: percent[name] for name in hb.CAUSES if name in percent}
    return found
