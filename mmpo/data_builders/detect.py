"""Does a description say what is not there? Sentence by sentence, with a verdict, a reason and the words at fault.

The rules compare object mentions with the objects that people marked. Counts, colours and positions are further
`Check`s (`checks`); each looks at a sentence and gives findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mmpo.data.annotations import AnnotatedImage
from mmpo.data.claims import Split, claimed, split_sentences
from mmpo.data.evidence import Truth, truth_of
from mmpo.data.vocabulary import Mention, ObjectVocabulary

__all__ = [
    "Check", "Detector", "Finding", "ObjectCheck", "SentenceVerdict", "Split", "Truth", "Verdict", "claimed",
    "hallucinated", "split_sentences",
]  # fmt: skip

Verdict = Literal["hallucination", "correct", "unchecked"]


@dataclass(frozen=True)
class Edit:
    """`text[start:end]` should be `text`."""

    start: int
    end: int
    text: str

    def moved(self, by: int) -> Edit:
        return replace(self, start=self.start + by, end=self.end + by)


@dataclass(frozen=True)
class Finding:
    """What one check has to say about `text[start:end]` of a sentence. `edits` would make it right; an object that is
    not there has none.
    """

    start: int
    end: int
    kind: str
    name: str
    wrong: bool
    reason: str
    edits: tuple[Edit, ...] = ()

    def moved(self, by: int) -> Finding:
        edits = tuple(edit.moved(by) for edit in self.edits)
        return replace(self, start=self.start + by, end=self.end + by, edits=edits)


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


class Detector:
    """Checks descriptions against annotations by rules."""

    def __init__(self, vocabulary: ObjectVocabulary, checks: Sequence[Check] | None = None) -> None:
        self.vocabulary = vocabulary
        self.checks: tuple[Check, ...] = tuple(checks) if checks is not None else (ObjectCheck(vocabulary),)

    def truth(self, image: AnnotatedImage) -> Truth:
        """What is known about a picture."""
        return truth_of(image, self.vocabulary)

    def check(self, text: str, truth: Truth) -> list[SentenceVerdict]:
        """One verdict a sentence, in order."""
        return [self._sentence(piece, truth) for piece in split_sentences(text)]

    def _sentence(self, piece: Split, truth: Truth) -> SentenceVerdict:
        findings = tuple(finding.moved(piece.start) for check in self.checks for finding in check(piece.text, truth))
        wrong = [finding for finding in findings if finding.wrong]
        verdict: Verdict = "hallucination" if wrong else "correct" if findings else "unchecked"
        reason = "; ".join(dict.fromkeys(finding.reason for finding in wrong or findings)) or "names no known object"
        return SentenceVerdict(piece.text, piece.start, verdict, reason, findings)


def hallucinated(verdicts: Iterable[SentenceVerdict]) -> list[Finding]:
    """Everything said that is wrong."""
    return [finding for verdict in verdicts for finding in verdict.findings if finding.wrong]
