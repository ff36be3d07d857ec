"""Degenerate texts: answers that repeat themselves, run in a loop, or use ever fewer words. Pure functions of words.

The unit is a word, `words(text)`, or whatever else the caller cuts texts into (the model's tokens).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

LONGEST_BLOCK = 64
FEWEST_COPIES = 3
FEWEST_WORDS = 12
"""A loop is a suffix of at least three copies of a block of at most 64 words, at least twelve words together."""

_TAIL = 100
_OCCURRENCES = 20
_REGULAR = 0.8
_COMMON_DISTANCES = 3


@dataclass(frozen=True)
class Loop:
    """The end of a text is `copies` copies of a block of `block` words."""

    copies: int
    block: int


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def ngrams(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All n-grams of one text, in order."""
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]


def rep_n(units: Sequence[str], n: int) -> float | None:
    """1 - distinct n-grams / n-grams of one answer: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319). None for fewer
    than `n` words.
    """
    found = ngrams(units, n)
    return 1 - len(set(found)) / len(found) if found else None


def distinct_n(answers: Iterable[Sequence[str]], n: int) -> float | None:
    """Distinct n-grams / n-grams over all answers (Li et al. 2016, arXiv 1510.03055); None where there is no n-gram.

    It falls with the number of words alone: compare it only after `cut_alike`.
    """
    found = [gram for answer in answers for gram in ngrams(answer, n)]
    return len(set(found)) / len(found) if found else None


def expectation_adjusted_distinct(answers: Iterable[Sequence[str]], vocabulary: int) -> float | None:
    """Distinct words over how many of a `vocabulary` so many words would hit if drawn uniformly: N / (V (1 - ((V - 1) /
    V)^C)) with N distinct and C words in all. None where there is no word.
    """
    found = [word for answer in answers for word in answer]
    if not found:
        return None
    return len(set(found)) / (vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** len(found)))


def cut_alike(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """Both sides' answers to the same prompts, each pair cut to the words of the shorter one."""
    lengths = [min(len(one), len(other)) for one, other in zip(before, after, strict=True)]
    first, second = ([side[: lengths[i]] for i, side in enumerate(sides)] for sides in (before, after))
    return first, second


def loop(units: Sequence[str]) -> Loop | None:
    """The loop that a text ends in, that with the shortest block; None where it ends in none."""
    for block in range(1, min(LONGEST_BLOCK, len(units) // FEWEST_COPIES) + 1):
        run = 0  # words from the end that are the same as those a block earlier
        while run + block < len(units) and units[-1 - run] == units[-1 - run - block]:
            run += 1
        copies = (run + block) // block
        if copies >= FEWEST_COPIES and copies * block >= FEWEST_WORDS:
            return Loop(copies, block)
    return None


def repeats_like_vlmevalkit(text: str) -> bool:
    """True where VLMEvalKit's `detect_repetition` (open-compass/VLMEvalKit, `vlmeval/utils/matching_util.py`) calls a
    text repetitive: its last 100 characters occur at least 20 times in its second half, and at least 80% of the
    distances between them are among the three most common ones. Occurrences may overlap.
    """
    tail, half = text[-_TAIL:], text[len(text) // 2 :]
    if not tail:
        return False
    places = [match.start() for match in re.finditer(f"(?={re.escape(tail)})", half)]
    if len(places) < _OCCURRENCES:
        return False
    distances = Counter(second - first for first, second in pairwise(places))
    common = sum(count for _, count in distances.most_common(_COMMON_DISTANCES))
    return common >= _REGULAR * distances.total()
