"""A report as lines: one sentence each, with its place in the text. It defines "line" wherever lines are counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_HEADER = re.compile(r"[A-Z][A-Za-z /&()-]{1,38}:")
_ABBREVIATIONS = ("dr", "mr", "ms", "mrs", "vs", "approx", "e.g", "i.e", "cf", "st", "fig", "incl", "resp", "etc", "ca")
_STARTS_SENTENCE = re.compile(r"\s*[A-Z0-9(\[_*•-]")
_LIST_NUMBER = re.compile(r"(?:[A-Z][A-Za-z /&()-]{1,38}:\s*)?\d{1,2}")
WINDOW = 60
"""Characters before a full stop that decide whether it ends a sentence."""


@dataclass(frozen=True)
class Line:
    """A sentence of a report: characters `[start, end)` of the text, which are `text`."""

    start: int
    end: int
    text: str


def split_lines(report: str) -> list[Line]:
    """The sentences of a report in order; what lies between them is white space.

    A new line of the file ends a sentence where the next one begins with a capital, a digit or a header; otherwise the
    file was wrapped. Full stops end one before white space and a capital, digit or bracket, and where the space was
    forgotten ("clear.Heart"); not in numbers ("3.5 cm"), after initials and abbreviations, or after a list number.
    """
    cuts = [0]
    for match in re.finditer(r"[.!?]+[\"')\]]*|\n", report):
        at = match.end()
        if match[0] == "\n":
            if _line_break_ends(report, match.start(), at):
                cuts.append(at)
        elif _stop_ends(report, match, cuts[-1]):
            cuts.append(at)
    cuts.append(len(report))
    lines = []
    for start, end in pairwise(cuts):
        text = report[start:end]
        stripped = text.strip()
        if stripped.strip("-*•.:_ "):
            first = start + len(text) - len(text.lstrip())
            lines.append(Line(first, first + len(stripped), stripped))
    return lines


def _line_break_ends(report: str, before: int, after: int) -> bool:
    rest = report[after : after + 60].lstrip(" \t")
    if not rest or rest[0] == "\n":
        return True
    last_line = report[report.rfind("\n", 0, before) + 1 : before].strip()
    if _HEADER.match(rest) or re.match(r"\d{1,2}[.)] |[-*•]\s", rest):
        return True
    if re.fullmatch(r"(?:\d{1,2}[.)]|[A-Z][A-Za-z /&()-]{1,38}:)", last_line):
        return False  # "1." or "FINDINGS:" alone on a line goes with its text
    return bool(rest[0].isupper() or rest[0].isdigit() or rest[0] in "([")


def _stop_ends(report: str, match: re.Match[str], since: int) -> bool:
    after = report[match.end() : match.end() + 8]
    if not after.strip():
        return True
    if match[0].startswith("."):
        before = report[max(since, match.start() - WINDOW) : match.start()].strip()
        word = before.rpartition(" ")[2].rpartition("\n")[2].lstrip("(\"'[")
        last = word.lower()
        initial = len(word) == 1 and word.isupper() and after[0] == " "
        if last in _ABBREVIATIONS or initial:
            return False
        if last == "no" and before.lower() != "no" and re.match(r"\s*\d", after):
            return False
        if _LIST_NUMBER.fullmatch(before):
            return False
        if after[0] not in " \t\r\n":
            return bool(len(last) > 1 and last[-1].islower() and re.match(r"[A-Z][a-z]", after))
    return bool(_STARTS_SENTENCE.match(after)) and after[0] in " \t\r\n"
