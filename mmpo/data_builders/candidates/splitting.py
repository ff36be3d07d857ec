"""Claims in words: a text model splits each response into facts, and makes each fact a question that yes confirms.

As RLAIF-V does (Yu et al. 2024, arXiv:2405.17220), but whole responses are split (there: their first words), and a
response whose facts and questions don't match is left out (there: they are matched as far as the shorter list goes).
A response is then the worse the more of its claims are rejected, whatever its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mmpo.chat import ChatModel, ChatReply, ChatRequest
from mmpo.chat.judging import final_replies, without_thinking
from mmpo.chat.templates import render
from mmpo.data.pair import placeholder_in
from mmpo.data_builders.candidates.records import Candidate, ClaimMention
from mmpo.data_builders.candidates.settings import ClaimWriter
from mmpo.errors import Quarantined

STAGE = "claims"
_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+(.*\S)\s*")
_NONE = re.compile(r"\W*none\W*", re.I)


def split_claims(chat: ChatModel, candidates: Sequence[Candidate], settings: ClaimWriter) -> list[Candidate]:
    """The candidates with their claims, in order. Those that are not kept stay as they are; one that states no fact is
    `no_claim`, one whose split can't be read has a reason that begins with `claims/`. UserError where a request failed
    for a reason that may pass."""
    found = list(candidates)
    facts: dict[int, list[str]] = {}
    kept = [place for place, one in enumerate(found) if one.kept]
    asked = [render(settings.split, prompt=found[place].prompt, text=found[place].text) for place in kept]
    for place, listed in zip(kept, _lists(chat, asked, settings, "splitting responses"), strict=True):
        if isinstance(listed, Quarantined):
            found[place] = replace(found[place], why_not=_reason(listed))
        elif not listed:
            found[place] = replace(found[place], why_not="no_claim")
        else:
            facts[place] = list(dict.fromkeys(listed))
    asked = [render(settings.ask, facts=own) for own in facts.values()]
    for (place, own), listed in zip(facts.items(), _lists(chat, asked, settings, "asking about claims"), strict=True):
        found[place] = with_claims(found[place], own, listed)
    return found


def with_claims(one: Candidate, facts: Sequence[str], questions: Sequence[str] | Quarantined) -> Candidate:
    """The candidate with a mention for each different question: its `name` is the question, its `word` the fact, and it
    stands for the whole text. Without mentions, and with the reason, where the two lists don't match."""
    if isinstance(questions, Quarantined):
        return replace(one, why_not=_reason(questions))
    if len(questions) != len(facts):
        return replace(one, why_not=f"{STAGE}/unpaired")
    if any(placeholder_in(text) for text in (*facts, *questions)):
        return replace(one, why_not=f"{STAGE}/image_tag")
    by_question: dict[str, str] = {}
    for question, fact in zip(questions, facts, strict=True):
        by_question.setdefault(question, fact)
    mentions = (ClaimMention(question, 0, len(one.text), fact) for question, fact in by_question.items())
    return replace(one, mentions=tuple(mentions))


def _lists(
    chat: ChatModel, prompts: Sequence[str], settings: ClaimWriter, label: str
) -> Iterator[list[str] | Quarantined]:
    """The list that the model replies to each prompt."""
    requests = [ChatRequest.ask(prompt, max_tokens=settings.max_tokens) for prompt in prompts]
    for reply in final_replies(list(chat.replies(requests, label)), "model that splits responses"):
        yield reply if isinstance(reply, Quarantined) else read_list(reply)


def read_list(reply: ChatReply) -> list[str] | Quarantined:
    """The items of a list with dashes, bullets or numbers; none for the word NONE. Lines around it (a heading, a last
    remark) are no items."""
    if reply.truncated:
        return Quarantined(STAGE, "cut_off", "the reply ends at max_tokens")
    text = without_thinking(reply.text)
    items = [match.group(1) for line in text.splitlines() if (match := _ITEM.fullmatch(line))]
    if len(items) == 1 and _NONE.fullmatch(items[0]):
        return []
    return items or ([] if _NONE.fullmatch(text) else Quarantined(STAGE, "unread", text[:200]))


def _reason(error: Quarantined) -> str:
    return f"{STAGE}/{error.reason}"
