"""Differences between the claims of a pair's two sides: character spans that weigh more than the rest (dense DPO).

RLHF-V (Yu et al. 2023, arXiv:2312.00849) weighs the segments that a correction changed. Here a changed segment weighs
more only if it holds a claim that the detector looked at, so that words that a rewriting only phrased differently keep
weight 1. What one side alone has counts too: a made-up object that was taken out has no counterpart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from mmpo.data.spans import Span
from mmpo.data_builders.hallucination.detect import Finding, SentenceVerdict

MIN_MATCH = 3
"""Equal stretches of fewer words and marks belong to the change around them (RLHF-V's matcher, there on tokens)."""

_UNIT = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def changed_segments(
    chosen: str, rejected: str, *, min_match: int = MIN_MATCH
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The character ranges of both texts that the other has not, cut at words and marks; upper case counts as lower."""
    units = [list(_UNIT.finditer(text)) for text in (chosen, rejected)]
    words = [[unit.group().lower() for unit in side] for side in units]
    ranges: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    start = [0, 0]
    blocks = SequenceMatcher(None, words[0], words[1], autojunk=False).get_matching_blocks()
    for number, block in enumerate(blocks):
        if block.size < min_match and number + 1 < len(blocks):
            continue
        for side, end in enumerate((block.a, block.b)):
            if start[side] < end:
                ranges[side].append((units[side][start[side]].start(), units[side][end - 1].end()))
        start = [block.a + block.size, block.b + block.size]
    return ranges


def weighted_spans(
    chosen: tuple[str, Sequence[SentenceVerdict]], rejected: tuple[str, Sequence[SentenceVerdict]], weight: float
) -> tuple[list[Span] | None, list[Span] | None]:
    """Spans of `weight` for the changed segments of both sides in which the detector found something; None for a side
    without any. Each side is its text and the verdicts on it. Where verdicts come without findings (a text model's
    judgement), the changed segments of sentences that it judged count.
    """
    segments = changed_segments(chosen[0], rejected[0])
    sides = []
    for (_, verdicts), ranges in zip((chosen, rejected), segments, strict=True):
        claims = [claim for verdict in verdicts for claim in _claims(verdict)]
        spans: list[Span] = [
            {"start": start, "end": end, "weight": weight} for start, end in ranges if _holds(start, end, claims)
        ]
        sides.append(spans or None)
    return sides[0], sides[1]


def _claims(verdict: SentenceVerdict) -> Iterable[tuple[int, int]]:
    findings: tuple[Finding, ...] = verdict.findings
    if findings:
        return [(finding.start, finding.end) for finding in findings]
    return [] if verdict.verdict == "unchecked" else [(verdict.start, verdict.start + len(verdict.text))]


def _holds(start: int, end: int, claims: Sequence[tuple[int, int]]) -> bool:
    return any(first < end and last > start for first, last in claims)
