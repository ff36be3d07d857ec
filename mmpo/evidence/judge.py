"""The source `judge`: a model on a server that gets the picture and one question about it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from mmpo.chat import ChatModel, ChatReply, ChatRequest, open_chat
from mmpo.chat.judging import without_thinking
from mmpo.errors import Quarantined
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import JudgeSource, asked_about
from mmpo.evidence.source import EvidenceSource
from mmpo.resuming import deciding

_WORD = re.compile(r"\b(yes|no|unsure)\b", re.I)
_NUMBERS = {"yes": 1.0, "unsure": 0.0, "no": -1.0}


class PictureJudge(EvidenceSource[JudgeSource]):
    """z is +1 for yes, 0 for unsure, -1 for no. It abstains where there is no reply (`judge/REASON`), or one that is
    cut off or says none of these words, or several (`judge/cut_off`, `judge/unread`)."""

    calibrated: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return f"judge {json.dumps(deciding(self.settings), sort_keys=True)}"

    @cached_property
    def _chat(self) -> ChatModel:
        return self.context.stack.enter_context(open_chat(self.settings.chat, self.context.replies))

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        asked = [(number, name) for number, own in enumerate(names) for name in own]
        template = self.settings.claim_question if self.context.questions else self.settings.question
        requests = [
            ChatRequest.ask(
                asked_about(template, name),
                images=(pictures[number].data,),
                max_tokens=self.settings.max_tokens,
            )
            for number, name in asked
        ]
        found: list[dict[str, SourceFinding]] = [{} for _ in pictures]
        for (number, name), reply in zip(asked, self._chat.replies(requests), strict=True):
            found[number][name] = read_presence(reply)
        return list(found)

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(0.5, -0.5)


def read_presence(reply: ChatReply | Quarantined) -> SourceFinding:
    """A judge's reply as a finding; `detail.reply` has its words."""
    if isinstance(reply, Quarantined):
        return SourceFinding(None, f"judge/{reply.reason}")
    text = without_thinking(reply.text)
    words = {word.lower() for word in _WORD.findall(text)}
    if reply.truncated:
        return SourceFinding(None, "judge/cut_off", {"reply": reply.text[:200]})
    if len(words) != 1:
        return SourceFinding(None, "judge/unread", {"reply": reply.text[:200]})
    return SourceFinding(_NUMBERS[words.pop()], "", {"reply": reply.text[:200]})
