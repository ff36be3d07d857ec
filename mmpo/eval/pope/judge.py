"""VLMEvalKit's text model for POPE: does an answer that its rule can't read mean yes or no?

As there (vlmeval/dataset/utils/yorn.py) it is asked up to five times, each time half a degree warmer, until its reply
holds one of the two words; an answer that stays undecided is unknown. The prompt asks for what VLMEvalKit's asks for
(yes, no or unknown in one word, after two examples) in words of ours; `template` takes another.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmpo.chat import ChatModel
from mmpo.chat.judging import judge, require_all
from mmpo.chat.templates import render
from mmpo.eval.yes_no import YesNoVerdict, parse

PARSER = "vlmevalkit"
TEMPLATE = "yes_no_match"
TEMPERATURES = (0.0, 0.5, 1.0, 1.5, 2.0)
MAX_TOKENS = 64
"""A word is enough, but some judges explain it."""

AnsweredQuestion = tuple[str, str]
"""A question and the answer to it."""


def settled(
    chat: ChatModel, answered: Iterable[AnsweredQuestion], template: str = TEMPLATE
) -> dict[AnsweredQuestion, YesNoVerdict]:
    """Verdicts on those of the answers that say neither yes nor no by the rule, where the judge decides.

    Raises UserError where a question to the judge got no reply for a reason that may pass.
    """
    left = [one for one in dict.fromkeys(answered) if not parse(one[1], PARSER).found]
    found: dict[AnsweredQuestion, YesNoVerdict] = {}
    for temperature in TEMPERATURES if left else ():
        prompts = [render(template, question=question, answer=answer) for question, answer in left]
        said = judge(
            chat,
            prompts,
            _read,
            label="deciding unread answers",
            max_tokens=MAX_TOKENS,
            temperature=temperature,
        )
        require_all(said, "pope")
        found |= {one: told.value for one, told in zip(left, said, strict=True) if told.value}
        left = [one for one, told in zip(left, said, strict=True) if not told.value and told.failure is None]
    return found


def _read(reply: str) -> YesNoVerdict | None:
    verdict = parse(reply, PARSER)
    return verdict if verdict.found else None
