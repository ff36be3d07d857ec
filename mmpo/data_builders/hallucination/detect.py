"""Does a description say what is not there? Sentence by sentence, with a verdict, a reason and the words at fault.

The rules read claims (`scene_claims`) about objects, numbers, colours, places and relations, and the annotations
decide them (`mmpo.data.truth`). A further `Check` looks at a sentence and gives findings of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.truth import Truth, decide, side_at, truth_of
from mmpo.text.claims import SplitSentence, claimed, split_sentences
from mmpo.text.described import SAY_SIDE
from mmpo.text.scene_claims import RELATION_WORDS, Claim, ClaimKind, Number, read_claims
from mmpo.text.vocabulary import ObjectVocabulary
from mmpo.text.words import plural

__all__ = [
    "Check",
    "ClaimVerdict",
    "Detector",
    "Finding",
    "SentenceVerdict",
    "SplitSentence",
    "Truth",
    "claimed",
    "hallucinated",
    "split_sentences",
]  # fmt: skip

ClaimVerdict = Literal["hallucination", "correct", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """A finding about `text[start:end]`: a claim that annotation decides, or the result of a further check."""

    start: int
    end: int
    kind: str
    name: str
    wrong: bool
    reason: str

    def moved(self, by: int) -> Finding:
        return replace(self, start=self.start + by, end=self.end + by)


Decided = tuple[Claim, bool | None]
"""A claim, and whether it is right; None where the annotation does not decide it."""


@dataclass(frozen=True)
class SentenceVerdict:
    """`unchecked`: the sentence makes no claim that the rules can check, or one about an object of which nothing is
    known. Offsets of findings count in the text."""

    text: str
    start: int
    verdict: ClaimVerdict
    reason: str
    findings: tuple[Finding, ...]

    def row(self) -> dict[str, object]:
        """For a pair's provenance."""
        spans = [{"start": f.start, "end": f.end, "kind": f.kind, "name": f.name} for f in self.findings if f.wrong]
        return {"sentence": self.text, "verdict": self.verdict, "reason": self.reason, "spans": spans}


class Check(Protocol):
    """One rule. It gives findings, right and wrong, for the claims in a sentence that it understands."""

    def __call__(self, sentence: str, truth: Truth) -> Iterable[Finding]: ...


class Detector:
    """Checks descriptions against annotations by rules: claims of the wanted `kinds`, and what further `checks` find.

    `exhaustive`: the texts list everything they show (see `read_claims`).
    """

    def __init__(
        self,
        vocabulary: ObjectVocabulary,
        kinds: Sequence[ClaimKind] = ("object",),
        checks: Sequence[Check] = (),
        *,
        exhaustive: bool = False,
    ) -> None:
        self.vocabulary, self.kinds, self.checks, self.exhaustive = (
            vocabulary,
            frozenset(kinds),
            tuple(checks),
            exhaustive,
        )

    def claims(self, text: str) -> list[Claim]:
        """The claims of a text that are to be checked."""
        found = read_claims(text, self.vocabulary, exhaustive=self.exhaustive)
        return [claim for claim in found if claim.kind in self.kinds]

    def truth(self, image: AnnotatedImage) -> Truth:
        """The known facts about a picture."""
        return truth_of(image, self.vocabulary)

    def check(self, text: str, truth: Truth) -> list[SentenceVerdict]:
        """One verdict a sentence, in order."""
        return self.verdicts(text, truth, self.decided(text, truth))

    def decided(self, text: str, truth: Truth) -> list[Decided]:
        """The claims of a text, compared with what is known."""
        return [(claim, decide(claim, truth)) for claim in self.claims(text)]

    def verdicts(self, text: str, truth: Truth, decided: Iterable[Decided]) -> list[SentenceVerdict]:
        """One verdict a sentence, in order, from its decided claims."""
        claims = list(decided)
        findings = [finding_of(claim, truth, right) for claim, right in claims if right is not None]
        open_ = [claim for claim, right in claims if right is None and claim.kind == "object"]
        return [self._sentence(piece, truth, findings, open_) for piece in split_sentences(text)]

    def _sentence(
        self, piece: SplitSentence, truth: Truth, findings: Sequence[Finding], undecided: Sequence[Claim]
    ) -> SentenceVerdict:
        here = [f for f in findings if piece.start <= f.start < piece.start + len(piece.text)]
        here += [finding.moved(piece.start) for check in self.checks for finding in check(piece.text, truth)]
        wrong = [finding for finding in here if finding.wrong]
        unknown = [one for one in undecided if piece.start <= one.start < piece.start + len(piece.text)]
        verdict: ClaimVerdict = "hallucination" if wrong else "correct" if here and not unknown else "unchecked"
        if unknown and not wrong:
            names = ", ".join(dict.fromkeys(claim.name for claim in unknown))
            return SentenceVerdict(piece.text, piece.start, verdict, f"not known: {names}", tuple(here))
        reason = "; ".join(dict.fromkeys(finding.reason for finding in wrong or here)) or "names no known object"
        return SentenceVerdict(piece.text, piece.start, verdict, reason, tuple(here))


def finding_of(claim: Claim, truth: Truth, right: bool) -> Finding:
    """A decided claim, and why it is right or wrong."""
    return Finding(claim.start, claim.end, claim.kind, claim.name, not right, _reason(claim, truth, right))


def _reason(claim: Claim, truth: Truth, right: bool) -> str:
    name, value = claim.name, claim.value
    if claim.kind == "object":
        return f"{name} is in this picture" if right else f"no {name} in this picture"
    if isinstance(value, Number):
        marked = truth.marked(name)
        if marked is None:  # then nothing but `no dogs` is decided
            return f"{plural(name)} in this picture, not none"
        found = f"{len(marked)} {name if len(marked) == 1 else plural(name)}"
        return f"{found} in this picture" if right else f"{found}, not {value.least}"
    if claim.kind == "relation":
        assert claim.other is not None
        said = f"{RELATION_WORDS[str(value)]} the {claim.other.name}"
        return f"the {name} is {said}" if right else f"the {name} is not {said}"
    told = SAY_SIDE[str(value)] if claim.kind == "place" else str(value)
    if right:
        return f"the {name} is {told}"
    there_is = told_values(claim, truth)
    return f"the {name} is {there_is}, not {told}" if there_is else f"the {name} is not {told}"


def told_values(claim: Claim, truth: Truth) -> str:
    """The colours or places that the annotation gives for a class: `red and blue`."""
    items = truth.objects.get(claim.name, ())
    if claim.kind == "color":
        values = [item.attributes.get("color") for item in items]
    else:
        sides = [side_at(item, truth, vertical=claim.value in ("top", "bottom")) for item in items]
        values = [None if side is None else SAY_SIDE[side] for side in sides]
    return " and ".join(dict.fromkeys(value for value in values if isinstance(value, str)))


def hallucinated(verdicts: Iterable[SentenceVerdict]) -> list[Finding]:
    """All findings that are wrong."""
    return [finding for verdict in verdicts for finding in verdict.findings if finding.wrong]
