"""Judging answers about videos: yes or no and 0 to 5 against a right answer, or 1 to 5 against a caption too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, judge
from mmpo.chat.templates import render
from mmpo.chat.video_replies import Reward, VideoVerdict, read_reward, read_verdict
from mmpo.eval.protocol import Response
from mmpo.eval.video_qa.metrics import RIGHT_FROM, JudgedAnswer, VideoQuestion
from mmpo.eval.video_qa.settings import Protocol, VideoQaSettings

TEMPLATES: dict[Protocol, str] = {"zero_shot": "video_qa_judge", "reward": "video_reward"}
MAX_WORDS = 256
"""Words of an answer that a reward judge sees, as in the paper."""


def verdicts(
    chat: ChatModel, given: Sequence[tuple[VideoQuestion, Response]], own: VideoQaSettings, captions: Mapping[str, str]
) -> tuple[list[JudgedAnswer], list[Judgement[bool]]]:
    """Each answer judged, and the judge's raw verdicts (None: nothing readable) for the accounts.

    `captions` are by question id or video; the protocol `reward` needs one for every question.
    """
    rewards = own.protocol == "reward"
    prompts = [
        render(
            own.template or TEMPLATES[own.protocol],
            question=question.question,
            reference=question.answer,
            candidate=" ".join(response.text.split()[:MAX_WORDS]) if rewards else response.text,
            **({"caption": caption_of(captions, question)} if rewards else {}),
        )
        for question, response in given
    ]
    read: Callable[[str], Reward | VideoVerdict | None]
    if rewards:
        read = partial(read_reward, rule="llava_hound" if own.parser == "llava_hound" else "tolerant")
    else:
        read = partial(read_verdict, rule="video_chatgpt" if own.parser == "video_chatgpt" else "tolerant")
    said: list[Judgement[Reward | VideoVerdict]] = judge(chat, prompts, read, label="judging answers")
    judged = [_judged(question, one.value) for (question, _), one in zip(given, said, strict=True)]
    return judged, [Judgement(v.right, one.text, one.failure) for v, one in zip(judged, said, strict=True)]


def caption_of(captions: Mapping[str, str], question: VideoQuestion) -> str:
    """The caption of a question's video, by the question's id, its id without a number, or the video. Empty without."""
    for key in (question.id, question.id.rpartition("_")[0], question.video):
        if key in captions:
            return captions[key]
    return ""


def _judged(question: VideoQuestion, said: Reward | VideoVerdict | None) -> JudgedAnswer:
    if isinstance(said, VideoVerdict):
        return JudgedAnswer(question, said.right, said.score)
    score = None if said is None else said.score
    return JudgedAnswer(question, None if score is None else score >= RIGHT_FROM, score)
