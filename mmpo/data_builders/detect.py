"""Does a description say what is not there? Sentence by sentence, with a verdict, a reason and the words at fault.

The rules compare object mentions with the objects that people marked. Counts, colours and positions are further
`Check`s that can be added to a `Detector`; each looks at a sentence and gives findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mmpo.data.annotations import AnnotatedImage
from mmpo.data.vocabulary import Mention, ObjectVocabulary
from mmpo.data_builders.lexicon import FUNCTION_WORDS, STATES

Verdict = Literal["hallucination", "correct", "unchecked"]

_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n\s*\n")
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
class Split:
    """A sentence, the white space before it, and where it begins in the text."""

    before: str
    text: str
    start: int


def split_sentences(text: str) -> list[Split]:
    """Cut a text into sentences; decimals, initials and common abbreviations do not end one. Nothing is lost."""
    found: list[Split] = []
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


def _inside_sentence(text: str, start: int, end: int) -> bool:
    """Is the full stop before `end` part of an abbreviation? `etc.` ends a sentence where a capital letter follows."""
    if end >= len(text.rstrip()) or not _ABBREVIATION.search(text[start:end]):
        return False
    return not (text[:end].lower().endswith("etc.") and re.match(r"\s+[A-Z]", text[end:]))


def _split(text: str, start: int, end: int) -> Split:
    first = start + len(text[start:end]) - len(text[start:end].lstrip())
    return Split(text[start:first], text[first:end], first)


@dataclass(frozen=True)
class Finding:
    """What one check has to say about `text[start:end]` of a sentence."""

    start: int
    end: int
    kind: str
    name: str
    wrong: bool
    reason: str


@dataclass(frozen=True)
class SentenceVerdict:
    """`unchecked`: the sentence makes no claim that the rules can check. Offsets of findings count in the text."""

    text: str
    start: int
    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]

    def row(self) -> dict[str, object]:
        """For a pair's provenance."""
        spans = [{"start": f.start, "end": f.end, "kind": f.kind, "name": f.name} for f in self.findings if f.wrong]
        return {"sentence": self.text, "verdict": self.verdict, "reason": self.reason, "spans": spans}


@dataclass(frozen=True)
class Truth:
    """What is known about one picture. `names` are the classes of the vocabulary that are in it."""

    image: AnnotatedImage
    names: frozenset[str]


class Check(Protocol):
    """One rule. It gives findings, right and wrong, for the claims in a sentence that it understands."""

    def __call__(self, sentence: str, truth: Truth) -> Iterable[Finding]: ...


@dataclass(frozen=True)
class ObjectCheck:
    """Every object that is named must be in the picture. What is denied (`no dog`, `without a dog`) is no claim."""

    vocabulary: ObjectVocabulary

    def __call__(self, sentence: str, truth: Truth) -> list[Finding]:
        return [self._finding(mention, truth) for mention in claimed(sentence, self.vocabulary)]

    def _finding(self, mention: Mention, truth: Truth) -> Finding:
        wrong = mention.name not in truth.names
        reason = f"no {mention.name} in this picture" if wrong else f"{mention.name} is in this picture"
        return Finding(mention.start, mention.end, "object", mention.name, wrong, reason)


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


class Detector:
    """Checks descriptions against annotations by rules."""

    def __init__(self, vocabulary: ObjectVocabulary, checks: Sequence[Check] | None = None) -> None:
        self.vocabulary = vocabulary
        self.checks: tuple[Check, ...] = tuple(checks) if checks is not None else (ObjectCheck(vocabulary),)

    def truth(self, image: AnnotatedImage) -> Truth:
        """The classes in the picture: those of its annotated objects, and those that its captions name, as in CHAIR."""
        names = {name for item in image.object_names if (name := self.vocabulary.name_of(item))}
        names.update(mention.name for caption in image.captions for mention in claimed(caption, self.vocabulary))
        return Truth(image, frozenset(names))

    def check(self, text: str, truth: Truth) -> list[SentenceVerdict]:
        """One verdict a sentence, in order."""
        return [self._sentence(piece, truth) for piece in split_sentences(text)]

    def _sentence(self, piece: Split, truth: Truth) -> SentenceVerdict:
        findings = tuple(
            Finding(piece.start + f.start, piece.start + f.end, f.kind, f.name, f.wrong, f.reason)
            for check in self.checks
            for f in check(piece.text, truth)
        )
        wrong = [finding for finding in findings if finding.wrong]
        verdict: Verdict = "hallucination" if wrong else "correct" if findings else "unchecked"
        reason = "; ".join(dict.fromkeys(finding.reason for finding in wrong or findings)) or "names no known object"
        return SentenceVerdict(piece.text, piece.start, verdict, reason, findings)


def hallucinated(verdicts: Iterable[SentenceVerdict]) -> list[Finding]:
    """Everything said that is wrong."""
    return [finding for verdict in verdicts for finding in verdict.findings if finding.wrong]
