"""The sentences of a text, and the objects whose presence each claims."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmpo.text.function_words import FUNCTION_WORDS, STATES
from mmpo.text.vocabulary import Mention, ObjectVocabulary

_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n\s*\n")
_STOP = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|prof|vs|etc|e\.g|i\.e|approx|no|jr|sr|[a-z])\.$", re.I)
_NEGATION = re.compile(
    r"(?:\b(?:no|without|neither|nor)|n't|\bnot)(?:\s+(?:an?|any|the|other|visible|\w+ed))*\s+(?:\w+\s+)?$", re.I
)


_FRUIT_COLORS = ("orange", "peach", "rose", "olive")
"""Things that gave a colour its name: alone after an article they are the thing, before a noun the colour."""
_BEFORE_FRUIT = ("a", "an", "one", "the", "each", "another", "fresh", "ripe", "peeled")
_BEFORE = re.compile(r"(\w+)\s+$")
_AFTER = re.compile(r"\s+(?:and\s+|or\s+)?(\w+)")


@dataclass(frozen=True)
class SplitSentence:
    """A sentence, the white space before it, and where it begins in the text."""

    before: str
    text: str
    start: int


def split_sentences(text: str) -> list[SplitSentence]:
    """Cut a text into sentences; decimals, initials and common abbreviations do not end one. Nothing is lost."""
    found: list[SplitSentence] = []
    start = 0
    for match in _END.finditer(text):
        if match.group()[0] == "." and _inside_sentence(text, start, match.end()):
            continue
        end = match.start() if match.group()[0] == "\n" else match.end()
        if text[start:end].strip():
            found.append(_split(text, start, end))
            start = end
    if text[start:].strip():
        found.append(_split(text, start, len(text.rstrip())))
    return found


def first_sentence_end(text: str) -> int | None:
    """The place behind the first sentence of a text that is still being written, its mark included; a line that ends
    counts as one. None while it may go on: after `3.` or `Mr.` the next characters decide."""
    for match in _STOP.finditer(text):
        start, end = match.span()
        if not re.search(r"\w", text[:start]):
            continue
        if match.group()[0] != ".":
            return end
        may_go_on = text[start - 1].isdigit() or _ABBREVIATION.search(text[:end]) is not None
        if not (may_go_on if end == len(text) else _inside_sentence(text, 0, end)):
            return end
    return None


def _inside_sentence(text: str, start: int, end: int) -> bool:
    """Is the full stop before `end` part of an abbreviation? `etc.` ends a sentence where a capital letter follows."""
    if end >= len(text.rstrip()) or not _ABBREVIATION.search(text[start:end]):
        return False
    return not (text[:end].lower().endswith("etc.") and re.match(r"\s+[A-Z]", text[end:]))


def _split(text: str, start: int, end: int) -> SplitSentence:
    first = start + len(text[start:end]) - len(text[start:end].lstrip())
    return SplitSentence(text[start:first], text[first:end], first)


def claimed(sentence: str, vocabulary: ObjectVocabulary) -> list[Mention]:
    """The object mentions that say that something is there: not `no dog`, and no colours (`an orange shirt`)."""
    return [
        mention
        for mention in vocabulary.find(sentence)
        if not _NEGATION.search(sentence[: mention.start]) and not _is_color(sentence, mention)
    ]


def _is_color(sentence: str, mention: Mention) -> bool:
    if mention.word.lower() not in _FRUIT_COLORS:
        return False
    before, after = _BEFORE.search(sentence[: mention.start]), _AFTER.match(sentence[mention.end :])
    counted = before is not None and before.group(1).lower() in _BEFORE_FRUIT
    return not counted or (after is not None and after.group(1).lower() not in FUNCTION_WORDS | STATES)
