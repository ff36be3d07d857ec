"""The characters in which two reports differ, for token weights: after the weighted loss of arXiv 2406.06496.

Both reports are cut into words, numbers and punctuation and aligned (longest matching blocks, case ignored). What is
replaced is relevant on both sides, what is deleted on the rejected one, what is inserted on the chosen one.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import pairwise

from mmpo.data.spans import Span

_TOKEN = re.compile(r"\d+(?:[.,/:]\d+)*|[^\W\d_]+(?:['-][^\W\d_]+)*|_+|[^\w\s]")
STOP_WORDS = frozenset(("a", "an", "the", "is", "are", "of", "in", "and", "to", "with", "was", "there"))
Spans = list[tuple[int, int]]


def relevant_spans(chosen: str, rejected: str, junction: bool = True) -> tuple[Spans, Spans]:
    """The differing characters of each report: sorted, disjoint, half-open.

    `junction`: where a deletion leaves nothing in the chosen report, the word that follows there is relevant too, so
    that not saying it gets weight.
    """
    a, b = list(_TOKEN.finditer(chosen)), list(_TOKEN.finditer(rejected))
    ours, theirs = set(range(len(a))), set(range(len(b)))
    partner: dict[int, int] = {}  # rejected -> chosen, where they say the same
    matcher = SequenceMatcher(None, [t[0].lower() for t in a], [t[0].lower() for t in b], autojunk=False)
    for block in matcher.get_matching_blocks():
        partner |= {block.b + k: block.a + k for k in range(block.size)}
    theirs -= partner.keys()
    ours -= set(partner.values())
    joints = set()
    if junction:
        starts = {block.a: block.b for block in matcher.get_matching_blocks() if block.size}
        joints = {at for at, other in starts.items() if other - 1 in theirs and at - 1 not in ours}
    # What lies between two relevant pieces joins them, on both sides, so that the rest still says the same.
    backward = {mine: other for other, mine in partner.items()}
    for at in _between(theirs, b):
        theirs.add(at)
        ours.add(partner[at])
    for at in _between(ours, a):
        ours.add(at)
        theirs.add(backward[at])
    return _spans(ours | joints, a), _spans(theirs, b)


def _between(relevant: set[int], tokens: list[re.Match[str]]) -> list[int]:
    """Tokens between two relevant ones that are punctuation, or one stop word."""
    found: list[int] = []
    for left, right in pairwise(sorted(relevant)):
        gap = range(left + 1, right)
        words = [tokens[at][0].lower() for at in gap if tokens[at][0][0].isalnum()]
        if not words or (len(words) == 1 and words[0] in STOP_WORDS):
            found += gap
    return found


def _spans(relevant: set[int], tokens: list[re.Match[str]]) -> Spans:
    """The characters of the tokens; neighbours become one span."""
    spans: Spans = []
    for at in sorted(relevant):
        if spans and at - 1 in relevant:
            spans[-1] = (spans[-1][0], tokens[at].end())
        else:
            spans.append(tokens[at].span())
    return spans


def weight_spans(text: str, relevant: Spans) -> list[Span]:
    """The text as spans of weight 1 (relevant) and 0 (the rest), for `subset_dpo`, which turns 0 into its gamma.

    A space belongs to the word after it, as it does in a model's tokens. Empty where nothing is relevant: the whole
    text is one span of weight 0.
    """
    spans: list[Span] = []
    at = 0
    for start, end in relevant:
        while start > at and text[start - 1].isspace():
            start -= 1
        if start > at:
            spans.append({"start": at, "end": start, "weight": 0.0})
        spans.append({"start": start, "end": end, "weight": 1.0})
        at = end
    if at < len(text):
        spans.append({"start": at, "end": len(text), "weight": 0.0})
    return spans
