"""Takes references to earlier exams out of a report and keeps the findings that stand in the image.

A line is kept (`none`), rewritten (`partial`: "unchanged small effusion" becomes "small effusion") or dropped (`all`:
nothing of it can be seen in this image alone). A rewrite counts only if the detector is silent on it, its findings,
negations, numbers and sides are those of the line, and at least two words of content are left; else the line is
dropped. Nothing is ever added or made stronger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.lines import Line, split_lines
from mmpo.radiology.rewrites import rewrite

PriorLabel = Literal["none", "partial", "all"]


@dataclass(frozen=True)
class LineEdit:
    """The edit of a line: `edit` is its text afterwards, empty where the whole line goes; `reason` is the reason."""

    label: PriorLabel
    edit: str
    reason: str = ""


@dataclass(frozen=True)
class Edited:
    """A report without references to earlier exams, and what happened to each line."""

    text: str
    lines: tuple[tuple[Line, LineEdit], ...]

    @property
    def changed(self) -> bool:
        return any(edit.label != "none" for _, edit in self.lines)


class Annotator(Protocol):
    """Labels and edits the lines of a report."""

    identity: str

    def annotate(self, lines: Sequence[str]) -> list[LineEdit]:
        """One edit for each line. Raises Quarantined where the report can't be used."""


def edit_report(report: str, annotator: Annotator) -> Edited:
    """The report with every line edited; headers that lose all their text go too."""
    lines = split_lines(report)
    edits = annotator.annotate([line.text for line in lines])
    pieces: list[str] = []
    at = 0
    for line, edit in zip(lines, edits, strict=True):
        between = report[at : line.start]
        at = line.end
        if edit.label == "all":
            header = _section_header(line.text)
            if header:  # the section's other lines still need it
                pieces += [between, header]
            else:  # the gap before a dropped line goes with it, unless it holds the larger break
                pieces.append("\n" if "\n" in between and pieces and not pieces[-1].endswith("\n") else "")
            continue
        if pieces and not between and edit.label == "partial":
            between = " "
        pieces += [between, line.text if edit.label == "none" else edit.edit]
    text = "".join(pieces) if any(edit.label != "none" for edit in edits) else report
    if text is not report:
        text = _tidy_report(text)
    return Edited(text, tuple(zip(lines, edits, strict=True)))


_HEADER = r"[A-Z][A-Za-z /&()-]{2,38}:"
_EMPTY_HEADER = re.compile(rf"(?m)^{_HEADER}[ \t]*\n?(?=\s*(?:{_HEADER}|\Z))")


def _section_header(line: str) -> str:
    """The header at the beginning of a line, unless the whole section is about other exams."""
    match = re.match(_HEADER, line)
    return match[0] if match and not _is_comparison(match[0]) else ""


def _is_comparison(header: str) -> bool:
    return header.lower().startswith(("comparison", "technique and comparison"))


def _tidy_report(text: str) -> str:
    text = _EMPTY_HEADER.sub("", text)
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r"(?<=\S)[ \t]{2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class RuleEditor:
    """The annotator by rules: the detector finds references, a table of rewrites removes them."""

    identity = "rules"

    def __init__(self, detector: RuleDetector | None = None) -> None:
        self.detector = detector or RuleDetector()

    def annotate(self, lines: Sequence[str]) -> list[LineEdit]:
        return [self.line(text) for text in lines]

    def line(self, text: str) -> LineEdit:
        """Edit one line."""
        if not self.detector.sentence(text).flagged:
            return LineEdit("none", text)
        header, body = _split_header(text)
        if _is_comparison(header):
            return LineEdit("all", "", "comparison")
        edit, reason = self._rewritten(body)
        if not edit:
            return LineEdit("all", "", reason)
        return LineEdit("partial", header + edit)

    def _rewritten(self, body: str) -> tuple[str, str]:
        """The edit, or "" and why there is none."""
        text = finish(rewrite(body) or "")
        if not text:
            return "", "nothing_left"
        if self.detector.sentence(text).flagged:
            return "", "still_a_reference"
        return (text, "") if keeps_claims(body, text) else ("", "claims_changed")


def _split_header(text: str) -> tuple[str, str]:
    match = re.match(r"(?:\d{1,2}[.)]\s+|[-*•]\s+|[A-Z][A-Za-z /&()-]{1,38}:\s*){1,2}", text)
    return (match[0], text[match.end() :]) if match and match.end() < len(text) else ("", text)


def finish(text: str) -> str:
    """A sentence as it is written: one space between words, none before marks, a capital, one full stop."""
    text = re.sub(r"\s+", " ", text).strip(" ,;")
    text = re.sub(r"\s+([,.;:)])", r"\1", re.sub(r"\(\s+", "(", text))
    text = re.sub(r"\(\s*\)", "", text)
    text = re.sub(r"([,;])(?:\s*[,;.])+", lambda m: "." if m[0].rstrip().endswith(".") else m[1], text)
    text = re.sub(r"[\s,;]*\b(?:and|but|with|as|which (?:is|are)|or)?[\s,;]*([.!?])[.!?\s]*$", r"\1", text).strip()
    text = re.sub(r"^(?:and|but|however|although|while|also|overall|otherwise)\b[,\s]*", "", text, flags=re.IGNORECASE)
    text = re.sub(r"[\s,;]+(?:and|but|with|as|or)$", "", text)
    if not text.strip(" .!?"):
        return ""
    text = re.sub(r"\b([Aa])n? (?=([a-zA-Z]+))", _article, text)
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."


def _article(match: re.Match[str]) -> str:
    word = match[2].lower()
    vowel = word[0] in "aeiou" and not word.startswith(("uni", "eu", "use", "usu", "one"))
    if len(word) > 1 and word in ("ap", "ett", "icd", "ng", "et", "mri"):
        vowel = True
    return match[1] + ("n " if vowel else " ")
