"""Readers of replies of judges and writers of video data: rewards from 1 to 5, verdicts, question/answer pairs.

Each reader has our rule (`tolerant`: understands variants, refuses nonsense, never makes a number up) and the rule of
the published scripts, by name, for numbers that compare with theirs: `llava_hound` (RifleZhang/LLaVA-Hound-DPO) and
`video_chatgpt` (the zero-shot protocol of Video-ChatGPT).
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

Rule = Literal["tolerant", "llava_hound"]
VerdictRule = Literal["tolerant", "video_chatgpt"]
LOWEST, HIGHEST = 1.0, 5.0
WORDS = {"one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0}

_THINKING = re.compile(r"(?s)^.*</think(?:ing)?>|<think(?:ing)?>.*?</think(?:ing)?>")
_MARKS = str.maketrans("", "", "*_`#>")
_SCORE = re.compile(
    r"\b(?:overall\s+|final\s+)?score\b\s*(?:is|of|[:=\-–])?\s*(?:is\s+)?"
    r"(?P<number>-?\d+(?:\.\d+)?(?=\D|$)|one\b|two\b|three\b|four\b|five\b)(?:\s*(?:/|out of|of)\s*(?P<of>\d+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reward:
    """A judge's score, None where the reply holds none (`why` is the reason), and its explanation."""

    score: float | None
    explanation: str
    why: str = ""


def read_reward(reply: str | None, rule: Rule = "tolerant") -> Reward:
    """The score from 1 to 5 of a reply such as "Explanation: …\\nScore: 4".

    tolerant: the last "score" that is followed by a number (or a word one … five), those at the start of a line
    first; None without one, and for a number out of range. llava_hound: the first `Score: N`, else the most frequent
    number of the reply (ties averaged), else 1; any number passes.
    """
    if reply is None:
        return Reward(None, "", "no reply")
    if rule == "llava_hound":
        return Reward(_hound_score(reply), _explanation(reply))
    text = _THINKING.sub("", reply).translate(_MARKS)
    lines = [line.strip() for line in text.splitlines() if line.strip().lower().startswith(("score", "final score"))]
    found = [match for line in lines for match in _SCORE.finditer(line)] or list(_SCORE.finditer(text))
    explanation = _explanation(text)
    if not found:
        return Reward(None, explanation, "no score")
    last = found[-1]
    number = WORDS.get(last["number"].lower())
    value = float(last["number"]) if number is None else number
    if last["of"] not in (None, "5"):
        return Reward(None, explanation, f"a score out of {last['of']}")
    if not LOWEST <= value <= HIGHEST:
        return Reward(None, explanation, f"{last['number']} is out of range")
    return Reward(value, explanation)


def _hound_score(reply: str) -> float:
    """The published `get_score`, digit for digit: a number of the fallback stands between word boundaries (so the 1 of
    "Q1" is none), and "1.2.3" holds 1.2 and 3.
    """
    if first := re.search(r"Score: (\d+\.?\d*)", reply):
        return float(first.group(1))
    counts = Counter(float(number) for number in re.findall(r"\b\d+\.?\d*\b", reply))
    most = max(counts.values(), default=0)
    tied = [number for number, count in counts.items() if count == most]
    return sum(tied) / len(tied) if tied else LOWEST


def _explanation(text: str) -> str:
    before = re.split(r"(?im)^\W*(?:final\s+)?score\b", text, maxsplit=1)[0]
    return re.sub(r"(?i)^\W*explanation\W*", "", before).strip() or text.strip()


@dataclass(frozen=True)
class VideoVerdict:
    """A judge's yes or no and its score from 0 to 5, each None where the reply does not hold it."""

    right: bool | None
    score: float | None


def read_verdict(reply: str | None, rule: VerdictRule = "tolerant") -> VideoVerdict:
    """The verdict of a reply such as "{'pred': 'yes', 'score': 4}".

    tolerant: the first {…} as JSON or as a Python literal, keys in any case; `pred` must be yes or no, `score` a number
    in [0, 5]. video_chatgpt: the whole number after an unquoted 'score' (4.8 reads as 4, 10 passes), "yes" anywhere in
    the reply is yes, else "no" anywhere is no.
    """
    if reply is None:
        return VideoVerdict(None, None)
    if rule == "video_chatgpt":
        lowered = reply.lower()
        number = re.search(r"['\"]score['\"]\s*:\s*(\d+)", lowered)
        right = True if "yes" in lowered else False if "no" in lowered else None
        return VideoVerdict(right, float(number.group(1)) if number else None)
    found = _first_map(_THINKING.sub("", reply))
    values = {str(key).strip().lower(): value for key, value in found.items()}
    said = str(values.get("pred", "")).strip().strip(".").lower()
    return VideoVerdict({"yes": True, "no": False}.get(said), _in_range(values.get("score")))


def _first_map(text: str) -> dict[Any, Any]:
    block = re.search(r"\{[^{}]{0,4000}\}", text)
    if block is None:
        return {}
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(block.group())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def _in_range(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number <= 5 else None


_LABEL = re.compile(r"(?:^|(?<=\s))[*_#>\-\s]*([QA])\s*(\d+)\s*[*_]*\s*[:.)]\s*[*_]*\s*", re.MULTILINE)
QuestionRule = Literal["tolerant", "prompt_script", "post_processing"]


def read_questions(
    reply: str, rule: QuestionRule = "tolerant", *, expected: int | None = None
) -> tuple[list[tuple[str, str]], str]:
    """The (question, answer) pairs of a reply with lines `Q1: …` and `A1: …`, and the reason where there are none.

    tolerant: labels may be bold, answers may stand on the question's line; every question needs the answer of its own
    number. prompt_script and post_processing are LLaVA-Hound's two parsers; the second wants exactly three pairs.
    """
    if rule == "prompt_script":
        pairs = re.findall(r"(?s)Q\d+:\s*(.*?)\nA\d+:\s*(.*?)(?=\nQ\d+:|\Z)", reply)
        return [(q.strip(), a.strip()) for q, a in pairs], "" if pairs else "no_questions"
    if rule == "post_processing":
        found = re.findall(r"(?s)(?:^|\n)\s*Q(\d+):\s*(.*?)\s*\n\s*A\1:\s*(.*?)(?=\n\s*Q\d+:|\Z)", reply)
        whole = len(found) == 3
        return [(q.strip(), a.strip()) for _, q, a in found] if whole else [], "" if whole else "not_three"
    text = _THINKING.sub("", reply)
    labels = list(_LABEL.finditer(text))
    if not labels:
        return [], "no_questions"
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts = [
        (label.group(1), int(label.group(2)), text[label.end() : end].strip().strip("*_ ").strip())
        for label, end in zip(labels, ends, strict=True)
    ]
    if len(parts) % 2:
        return [], "unpaired"
    pairs = []
    for (kind, number, question), (other, same, answer) in zip(parts[::2], parts[1::2], strict=True):
        if (kind, other) != ("Q", "A"):
            return [], "unpaired"
        if number != same:
            return [], "numbers_differ"
        if not question or not answer:
            return [], "empty"
        pairs.append((question, answer))
    if expected is not None and len(pairs) != expected:
        return [], f"not_{expected}"
    return pairs, ""
