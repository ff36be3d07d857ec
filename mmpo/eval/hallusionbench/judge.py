"""HallusionBench's two judges: is a prediction right, and do two predictions say the same?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, Mode, judge, read_correctness, read_same
from mmpo.chat.templates import render
from mmpo.eval.hallusionbench.metrics import UNCLEAR, HallusionQuestion, figure_zero

CORRECT, SAME = "hallusion_correct", "hallusion_same"
Verdicts = tuple[list[int], list[int] | None, int]
"""Verdicts, whether answers say the same (None: not asked), and how many could not be read."""
MAX_TOKENS = 256
"""A word is enough, but many judges explain it."""


def correctness(
    chat: ChatModel, questions: Sequence[HallusionQuestion], *, mode: Mode = "strict", template: str = CORRECT
) -> list[Judgement[int]]:
    """Judge 1: 0 wrong, 1 right, 2 unclear for each prediction, against the reference sentence."""
    prompts = [
        render(
            template,
            question=question.question,
            standard_answer=question.details,
            prediction=question.prediction or "",
        )
        for question in questions
    ]
    read = partial(read_correctness, mode=mode)
    return judge(chat, prompts, read, label="judging answers", max_tokens=MAX_TOKENS)


def sameness(
    chat: ChatModel, questions: Sequence[HallusionQuestion], *, mode: Mode = "strict", template: str = SAME
) -> list[Judgement[int] | None]:
    """Judge 2: 1 where a prediction says the same as the one about figure 0 of its set; None where there is nothing to
    compare.
    """
    zeros = figure_zero(questions)
    prompts = [
        render(template, question=one.question, first=zero.prediction or "", second=one.prediction or "")
        for one, zero in zip(questions, zeros, strict=True)
        if zero is not None
    ]
    found = iter(judge(chat, prompts, partial(read_same, mode=mode), label="comparing answers", max_tokens=MAX_TOKENS))
    return [None if zero is None else next(found) for zero in zeros]


def verdicts(first: Sequence[Judgement[int]], second: Sequence[Judgement[int] | None] | None) -> Verdicts:
    """The verdicts of both judges. An unparsed or refused one is unclear, such a comparison: not the same."""
    right = [UNCLEAR if one.value is None else one.value for one in first]
    same = None if second is None else [0 if one is None else one.value or 0 for one in second]
    return right, same, sum(one.value is None for one in first)
