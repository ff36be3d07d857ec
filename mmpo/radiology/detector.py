"""Detector of references to an earlier exam in sentences: cues with their places and scores, by rules.

Wording that only looks like a reference (surgical history, the patient's state, recommendations, one side compared with
the other, …) is masked first; then cues are looked for in what is left, so that "Status post CABG, unchanged wires" is
still one. After the label policy of Banerjee et al. 2024 (arXiv 2406.06496), whose own labels come from GPT-4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mmpo.radiology.lexicon import Lexicon, Pattern, shipped_lexicon
from mmpo.radiology.lines import Line, split_lines

THRESHOLD = 0.5
LONGEST = 2000
"""Characters of a sentence that are read; what is longer is no sentence."""
REMEMBERED = 1 << 15
"""Sentences whose verdicts are kept."""
_MASK = "\0"
_PLAIN = str.maketrans(
    {"‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "\0": " "}
    | {chr(code): " " for code in (9, 10, 11, 12, 13, 0xA0, 0x2009, 0x202F, 0x200B)}
)


@dataclass(frozen=True)
class Cue:
    """A piece of wording that refers to an earlier exam: characters `[start, end)` of the text."""

    name: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class PriorVerdict:
    """One sentence, judged. `exclusions` are the wordings that were passed over: (name, text)."""

    text: str
    score: float
    cues: tuple[Cue, ...] = ()
    exclusions: tuple[tuple[str, str], ...] = ()

    @property
    def flagged(self) -> bool:
        """True if it refers to an earlier exam."""
        return self.score >= THRESHOLD

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The places of the cues, merged where they overlap; empty where not flagged."""
        return merge_spans([(cue.start, cue.end) for cue in self.cues]) if self.flagged else []


@dataclass(frozen=True)
class JudgedLine:
    """A line of a report and its verdict; spans of the verdict count from the line's own start."""

    line: Line
    verdict: PriorVerdict


@dataclass(frozen=True)
class ReportVerdict:
    """A report, line by line."""

    lines: tuple[JudgedLine, ...] = field(default=())

    @property
    def flagged(self) -> list[JudgedLine]:
        return [line for line in self.lines if line.verdict.flagged]

    @property
    def score(self) -> float:
        return max((line.verdict.score for line in self.lines), default=0.0)

    def row(self) -> dict[str, Any]:
        """As JSON: `label`, `score`, `cues`, `spans` in characters of the report."""
        hits = self.flagged
        cues = [
            {
                "name": cue.name,
                "text": cue.text,
                "score": cue.score,
                "start": cue.start + hit.line.start,
                "end": cue.end + hit.line.start,
            }
            for hit in hits
            for cue in hit.verdict.cues
        ]
        spans = [[start + hit.line.start, end + hit.line.start] for hit in hits for start, end in hit.verdict.spans]
        return {
            "label": bool(hits),
            "score": round(self.score, 4),
            "cues": cues,
            "spans": spans,
            "lines": len(self.lines),
            "flagged_lines": len(hits),
        }


class RuleDetector:
    """The detector by rules. Deterministic; the same text always gets the same verdict."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self.lexicon = lexicon or shipped_lexicon()
        self.identity = "rules"
        needs = sorted({need for cue in self.lexicon.cues for need in cue.needs})
        always = any(not cue.needs for cue in self.lexicon.cues)
        self._trigger = None if always else re.compile("|".join(map(re.escape, _shortest(needs))))

        self._remembered = lru_cache(maxsize=REMEMBERED)(self._judge)  # reports repeat many sentences

    def sentence(self, text: str) -> PriorVerdict:
        """Judge one sentence (or line)."""
        return self._remembered(text)

    def _judge(self, text: str) -> PriorVerdict:
        plain, index = normalise(text[:LONGEST])
        if self._trigger is not None and not self._trigger.search(plain):
            return PriorVerdict(text, 0.0)
        if not any(cue.may_match(plain) and cue.regex.search(plain) for cue in self.lexicon.cues):
            return PriorVerdict(text, 0.0)
        masked, exclusions = self._mask(plain)
        hits = self._cues(masked)
        score = max((hit[0] for hit in hits), default=0.0)
        if score < THRESHOLD and sum(hit[0] for hit in hits) >= THRESHOLD:
            score = THRESHOLD
        cues = tuple(_cue(text, index, *hit) for hit in hits)
        return PriorVerdict(text, score, cues, tuple(exclusions))

    def sentences(self, texts: Sequence[str]) -> list[PriorVerdict | None]:
        return [self.sentence(text) for text in texts]

    def report(self, text: str) -> ReportVerdict:
        """Judge every line of a report."""
        return ReportVerdict(tuple(JudgedLine(line, self.sentence(line.text)) for line in split_lines(text)))

    def flags(self, text: str) -> bool:
        """True if any line of the text refers to an earlier exam."""
        return any(self.sentence(line.text).flagged for line in split_lines(text))

    def _mask(self, plain: str) -> tuple[str, list[tuple[str, str]]]:
        found: list[tuple[str, str]] = []
        for exclusion in self.lexicon.exclusions:
            if not exclusion.may_match(plain):
                continue
            for match in reversed(list(exclusion.regex.finditer(plain))):
                if match[0].strip():
                    found.append((exclusion.name, match[0]))
                    plain = plain[: match.start()] + _MASK * len(match[0]) + plain[match.end() :]
        return plain, found

    def _cues(self, masked: str) -> list[tuple[float, str, int, int]]:
        has_finding: bool | None = None
        hits = []
        for cue in self.lexicon.cues:
            if not cue.may_match(masked):
                continue
            for match in cue.regex.finditer(masked):
                if cue.without_finding is not None and has_finding is None:
                    has_finding = self.lexicon.finding.search(masked) is not None
                weak = cue.without_finding is not None and not has_finding
                hits.append((_score(cue, weak), cue.name, match.start(), match.end()))
        return sorted(hits, key=lambda hit: (hit[2], -hit[3], hit[1]))


def _score(cue: Pattern, weak: bool) -> float:
    return float(cue.without_finding or 0.0) if weak else cue.score


def _cue(text: str, index: Sequence[int] | None, score: float, name: str, start: int, end: int) -> Cue:
    if index is not None:
        start, end = index[start], index[end - 1] + 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Cue(name, start, end, text[start:end], score)


def normalise(text: str) -> tuple[str, list[int] | None]:
    """Lower case, plain dashes and quotes, single spaces; and where each character was (None: where it is)."""
    plain = text.lower()
    if len(plain) != len(text):  # a few letters grow when lowered
        plain = "".join(char.lower()[0] for char in text)
    plain = plain.translate(_PLAIN)
    if "  " not in plain:
        return plain, None
    kept = [i for i, char in enumerate(plain) if char != " " or i == 0 or plain[i - 1] != " "]
    return "".join(plain[i] for i in kept), kept


def merge_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with overlapping and touching ones joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _shortest(needs: Sequence[str]) -> list[str]:
    """Without those that contain another one."""
    return [need for need in needs if not any(other != need and other in need for other in needs)]
