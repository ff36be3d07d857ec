"""HallusionBench on predictions made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, Mode, cut_off, failures, not_judged
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.chair.score import flag
from mmpo.eval.hallusionbench import judge as hbj
from mmpo.eval.hallusionbench import metrics as hb
from mmpo.eval.hallusionbench.task import tally
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
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
    mode: Mode = "tolerant" if request.parser == "tolerant" else "strict"
    answered, left_out = _answers(request)
    read = len(answered) + sum(left_out.values())
    if request.options.get("question_set", "all") == "image":
        answered = [question for question in answered if question.image is not None]
        left_out["without_image"] = read - len(answered) - sum(left_out.values())
    if not answered:
        raise UserError(f"{request.answers}: no question is left to score")
    compare = flag(request.options.get("attribution"), "attribution") or False
    if request.judge is None:
        if compare:
            raise UserError("attribution needs --judge", hint="see docs/judges.md")
        rule = request.options.get("yes_no", "vlmevalkit")
        verdicts = hb.yes_no_verdicts(answered, rule)
        unread = verdicts.count(hb.UNCLEAR)
        how = f"judged by yes and no, read by the {rule} rule; neither is unclear"
        return _scored(answered, verdicts, None, how, read, left_out, unread)
    return _by_judge(request, request.judge, answered, mode, compare, read, left_out)


def _answers(request: ScoreRequest) -> tuple[list[hb.HallusionQuestion], dict[str, int]]:
    partial = flag(request.options.get("partial"), "partial") or False
    answered = hb.read_questions(request.answers)
    empty = [question for question in answered if question.prediction is None]
    if empty and not partial:
        raise UserError(f"{empty[0].where}: no `model_prediction`", hint="`--set partial=yes` scores the rest")
    left_out = {"no_prediction": len(empty)} if empty else {}
    answered = [question for question in answered if question.prediction is not None]
    if request.questions is not None:
        answered, others = hb.join(hb.read_questions(request.questions), answered, partial=partial)
        left_out.update(others)
    return answered, left_out


def _by_judge(
    request: ScoreRequest,
    chat: ChatModel,
    answered: list[hb.HallusionQuestion],
    mode: Mode,
    compare: bool,
    read: int,
    left_out: dict[str, int],
) -> Scored:
    correct = request.options.get("correct_template", hbj.CORRECT)
    alike = request.options.get("same_template", hbj.SAME)
    first = hbj.correctness(chat, answered, mode=mode, template=correct)
    second = hbj.sameness(chat, answered, mode=mode, template=alike) if compare else [None] * len(answered)
    kept = [number for number in range(len(answered)) if not _failed(first[number]) and not _failed(second[number])]
    lost = [second[n] if not _failed(first[n]) else first[n] for n in range(len(answered)) if n not in set(kept)]
    left_out = dict(Counter(left_out) + Counter(failures([one for one in lost if one is not None])))
    if not kept:
        raise UserError(f"no answer was judged: {left_out}", hint="run again: replies that come are kept")
    how = f"judged by {chat.identity} with {template_version(correct)}"
    how += f" and {template_version(alike)}" if compare else ""
    unread = sum(first[number].value is None for number in kept)
    said = not_judged([one for one in lost if one is not None]) + cut_off([*first, *(one for one in second if one)])
    return _scored(
        [answered[number] for number in kept],
        [hbj.verdict(first[number]) for number in kept],
        [hbj.same_flag(second[number]) for number in kept] if compare else None,
        f"{how}, read by the {mode} rule",
        read,
        left_out,
        unread,
        said,
    )


def _failed(judgement: Judgement[int] | None) -> bool:
    return judgement is not None and judgement.failure is not None


def _scored(
    questions: Sequence[hb.HallusionQuestion],
    verdicts: Sequence[int],
    same: Sequence[int] | None,
    how: str,
    read: int,
    left_out: dict[str, int],
    unread: int,
    warned: Sequence[str] = (),
) -> Scored:
    warnings = list(warned)
    if len(questions) != hb.QUESTIONS:
        warnings.append(f"{len(questions)} questions; the benchmark has {hb.QUESTIONS}, 951 of them with an image")
    if unread:
        warnings.append(
            f"{unread} answers could not be read as right or wrong; unclear is wrong where an image is shown"
        )
    if any(name.startswith("judge_") for name in left_out):
        warnings.append("where answers are left out, groups are smaller and easier to get right")
    return Scored(
        metrics=hb.metrics(questions, verdicts, same),
        conventions=[
            "accuracies in percent; groups by the full key (category, subcategory, set, question or figure); easy and "
            "hard are group accuracies despite their names; bias numbers are fractions",
            how,
        ],
        read=read,
        scored=len(questions),
        unparsed=unread,
        quarantined={name: count for name, count in sorted(left_out.items()) if count},
        warnings=warnings,
        intervals=_intervals(questions, verdicts, same),
    )


def _intervals(
    questions: Sequence[hb.HallusionQuestion], verdicts: Sequence[int], same: Sequence[int] | None
) -> dict[str, Any]:
    """Of the accuracies and causes in percent and the bias as fractions, resampling whole sets of figures."""
    counted = tally(questions, verdicts, same)
    plain, percent = intervals(counted), intervals(counted, percent=True)
    found: dict[str, Any] = {name: percent[name] for name in percent if name.endswith("Acc")}
    if all(question.answer for question in questions):
        bias = {"diff": plain.get("yes_bias"), "fp_ratio": plain.get("fp_ratio")}
        found["yes_no_bias"] = {name: bounds for name, bounds in bias.items() if bounds is not None}
    if same is not None:
        found["attribution"] = {name: percent[name] for name in hb.CAUSES if name in percent}
    return found
