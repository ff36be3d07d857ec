"""Rewards for sampled answers: a text model that never sees the video, or rules over the annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mmpo.chat import ChatModel, ChatRequest
from mmpo.chat.judging import final_replies
from mmpo.chat.templates import render, template_path, template_version
from mmpo.chat.video_replies import Reward, read_reward
from mmpo.chat.video_rules import IDENTITY, VideoRuleJudge
from mmpo.data.video_lists import VideoItem
from mmpo.data_builders.video.settings import JudgeSettings
from mmpo.errors import Quarantined


@dataclass(frozen=True)
class VideoCandidate:
    """One answer to be rewarded."""

    item: VideoItem
    caption: str
    question: str
    reference: str
    text: str


class Rewarder(Protocol):
    """Gives each candidate a reward, in order; a `Quarantined` where the judge could not be asked."""

    @property
    def identity(self) -> str: ...

    def rewards(self, candidates: Sequence[VideoCandidate]) -> list[Reward | Quarantined]: ...


class RuleRewarder:
    """By the rules of `mmpo.chat.video_rules`, over everything that is annotated in `items`."""

    identity = IDENTITY

    def __init__(self, items: Sequence[VideoItem]) -> None:
        self._judge = VideoRuleJudge.over(
            [name for item in items for name in (*item.objects, *(who for who, _ in item.events))],
            [event for item in items for event in item.events],
        )

    def rewards(self, candidates: Sequence[VideoCandidate]) -> list[Reward | Quarantined]:
        return [
            self._judge.reward(
                candidate.text,
                reference=candidate.reference,
                caption=candidate.caption,
                objects=candidate.item.objects,
                events=candidate.item.events,
            )
            for candidate in candidates
        ]


class ModelRewarder:
    """By a text model: caption, question, reference answer and candidate (its first words) in, reward out."""

    def __init__(self, chat: ChatModel, settings: JudgeSettings) -> None:
        template_path(settings.template)  # a wrong name should fail before anything is asked
        self._chat, self._settings = chat, settings
        self.identity = f"{chat.identity}, prompt {template_version(settings.template)}, rule {settings.rule}"

    def rewards(self, candidates: Sequence[VideoCandidate]) -> list[Reward | Quarantined]:
        requests = [self._request(candidate) for candidate in candidates]
        replies = self._chat.replies(requests, "rewarding answers")
        return [
            reply if isinstance(reply, Quarantined) else read_reward(reply.text, self._settings.rule)
            for reply in final_replies(list(replies), "judge")
        ]

    def _request(self, candidate: VideoCandidate) -> ChatRequest:
        prompt = render(
            self._settings.template,
            caption=candidate.caption,
            question=candidate.question,
            reference=candidate.reference,
            candidate=first_words(candidate.text, self._settings.max_words),
        )
        return ChatRequest.ask(prompt, max_tokens=self._settings.max_tokens)


def first_words(text: str, count: int) -> str:
    """The text's first `count` words, as it is where there are no more."""
    words = text.split()
    return text if len(words) <= count else " ".join(words[:count])
