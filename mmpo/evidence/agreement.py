"""Several opinions about one claim as one verdict, and how independent two sources are. Pure; no torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmpo.evidence.records import CombinedOpinion, Opinion, Presence

LIFT = 3.0
"""Two sources that are wrong together so many times as often as independent ones are not two opinions."""


def combine(
    name: str,
    by: Mapping[str, Opinion],
    *,
    least: int = 2,
    dissent: Literal["uncertain", "majority"] = "uncertain",
    decides: Sequence[str] = (),
) -> CombinedOpinion:
    """The verdict about a class by all listed sources, those that abstain included.

    present (absent) where at least min(`least`, sources) have an opinion and all say so; else uncertain. With
    `dissent: majority` also where at least so many say so and more than twice as many as say anything else. The first
    of `decides` that has an opinion decides alone.
    """
    votes = {source: opinion for source, opinion in by.items() if opinion.verdict is not None}
    for source in decides:
        if source in votes and (verdict := votes[source].verdict) is not None:
            return CombinedOpinion(name, verdict, votes[source].confidence, dict(by))
    counts: Counter[Presence] = Counter(opinion.verdict for opinion in votes.values() if opinion.verdict is not None)
    needed = min(least, len(by))
    verdict = "uncertain"
    sides: tuple[Presence, Presence] = ("present", "absent")
    for side in sides:
        others = len(votes) - counts[side]
        if counts[side] >= max(needed, 1) and (others == 0 or (dissent == "majority" and counts[side] > 2 * others)):
            verdict = side
    return CombinedOpinion(name, verdict, _smallest([one.confidence for one in votes.values()]), dict(by))


def _smallest(confidences: Sequence[float | None]) -> float | None:
    known = [one for one in confidences if one is not None]
    return min(known) if known and len(known) == len(confidences) else None


@dataclass(frozen=True)
class SourceOverlap:
    """Two sources on claims whose truth is known. `kappa` is Cohen's over claims on which both have one, None
    where chance alone agrees wholly; `lift` = P(both wrong) / (P(one wrong) P(other wrong)) over claims that both
    decide, None where one is never wrong."""

    one: str
    other: str
    claims: int
    kappa: float | None
    lift: float | None

    @property
    def warning(self) -> str:
        """Empty unless the two are wrong together far more often than two opinions are."""
        if self.lift is None or self.lift <= LIFT:
            return ""
        return (
            f"{self.one} and {self.other} are wrong together {self.lift:.1f} times as often as independent sources: "
            "their agreement is less than two opinions"
        )


def overlap(
    one: str, other: str, votes: Sequence[tuple[Presence | None, Presence | None]], truth: Sequence[bool]
) -> SourceOverlap:
    """Compare two sources by their verdicts about the same claims."""
    both = [(a, b, right) for (a, b), right in zip(votes, truth, strict=True) if a is not None and b is not None]
    decided = [
        (a != ("present" if right else "absent"), b != ("present" if right else "absent"))
        for a, b, right in both
        if "uncertain" not in (a, b)
    ]
    lift: float | None = None
    if decided:
        wrong = sum(a for a, _ in decided), sum(b for _, b in decided)
        together = sum(a and b for a, b in decided)
        lift = together * len(decided) / (wrong[0] * wrong[1]) if wrong[0] and wrong[1] else None
    return SourceOverlap(one, other, len(both), kappa([(a, b) for a, b, _ in both]), lift)


def kappa(votes: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (1960) of two raters; None without votes, and where chance alone agrees wholly."""
    if not votes:
        return None
    n = len(votes)
    observed = sum(a == b for a, b in votes) / n
    ones, others = Counter(a for a, _ in votes), Counter(b for _, b in votes)
    expected = sum(ones[value] * others[value] for value in ones) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)
