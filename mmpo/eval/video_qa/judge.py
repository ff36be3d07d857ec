"""Judging answers about videos: yes or no and 0 to 5 against a right answer, or 1 to 5 against a caption too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, judge
from mmpo.chat.templates import render
from mmpo.chat.video_replies import Reward, VideoVerdict, read_reward, read_verdict
from mmpo.eval.video_qa.metrics import RIGHT_FROM, JudgedAnswer, Protocol, VideoQuestion

Parser = Literal["tolerant", "video_chatgpt", "llava_hound"]
TEMPLATES: dict[Protocol, str] = {"zero_shot": "video_qa_judge", "reward": "video_reward"}
MAX_WORDS = 256
"""Words of an answer that a reward judge sees, as in the paper."""


def verdicts(
    chat: ChatModel,
    answered: Sequence[tuple[VideoQuestion, str]],
    *,
    protocol: Protocol = "zero_shot",
    parser: Parser = "tolerant",
    template: str | None = None,
    captions: Mapping[str, str] | None = None,
) -> tuple[list[JudgedAnswer], list[Judgement[bool]]]:
    """Each answer judged, and the judge's raw verdicts (None: nothing readable) for the accounts.

    `captions` are by question id or video; the protocol `reward` needs one for every question.
    """
    name = template or TEMPLATES[protocol]
    if protocol == "zero_shot":
        prompts = [render(name, question=q.question, reference=q.answer, candidate=text) for q, text in answered]
        rule = "video_chatgpt" if parser == "video_chatgpt" else "tolerant"
        read = judge(chat, prompts, partial(read_verdict, rule=rule), label="judging answers")  # type: ignore[arg-type]
        judged = [_of_verdict(q, one) for (q, _), one in zip(answered, read, strict=True)]
    else:
        known = captions or {}
        prompts = [
            render(
                name,
                caption=caption_of(known, q),
                question=q.question,
                reference=q.answer,
                candidate=" ".join(text.split()[:MAX_WORDS]),
            )
            for q, text in answered
        ]
        rule = "llava_hound" if parser == "llava_hound" else "tolerant"
        given = judge(chat, prompts, partial(read_reward, rule=rule), label="judging answers")  # type: ignore[arg-type]
        judged = [_of_reward(q, one) for (q, _), one in zip(answered, given, strict=True)]
        return judged, [Judgement(v.right, one.text, one.failure) for v, one in zip(judged, given, strict=True)]
    return judged, [Judgement(v.right, one.text, one.failure) for v, one in zip(judged, read, strict=True)]


def caption_of(captions: Mapping[str, str], question: VideoQuestion) -> str:
    """The caption of a question's video, by the question's id, its id without a number, or the video. Empty without."""
    for key in (question.id, question.id.rpartition("_")[0], question.video):
        if key in captions:
            return captions[key]
    return ""


def _of_verdict(question: VideoQuestion, one: Judgement[VideoVerdict]) -> JudgedAnswer:
    found = one.value or VideoVerdict(None, None)
    return JudgedAnswer(question, found.right, found.score)


def _of_reward(question: VideoQuestion, one: Judgement[Reward]) -> JudgedAnswer:
    score = None if one.value is None else one.value.score
    return JudgedAnswer(question, None if score is None else score >= RIGHT_FROM, score)
