"""Which characters of two reports differ, for token weights: after the weighted loss of arXiv 2406.06496.

Both reports are cut into words, numbers and punctuation and aligned (longest matching blocks, case ignored). What is
replaced is relevant on both sides, what is deleted on the rejected one, what is inserted on the chosen one.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from mmpo.data.pair import Span
from mmpo.radiology.detector import merge_spans

_TOKEN = re.compile(r"\d+(?:[.,/:]\d+)*|[^\W\d_]+(?:['-][^\W\d_]+)*|_+|[^\w\s]")
_BRIDGE = re.compile(r"[\s\W]*(?:(?:a|an|the|is|are|of|in|and|to|with|was|there)\b)?[\s\W]*", re.IGNORECASE)
Spans = list[tuple[int, int]]


def relevant_spans(chosen: str, rejected: str, junction: bool = True) -> tuple[Spans, Spans]:
    """The differing characters of each report: sorted, disjoint, half-open.

    `junction`: where a deletion leaves nothing in the chosen report, the word that follows there is relevant too, so
    that not saying it gets weight.
    """
    a, b = list(_TOKEN.finditer(chosen)), list(_TOKEN.finditer(rejected))
    matcher = SequenceMatcher(None, [t[0].lower() for t in a], [t[0].lower() for t in b], autojunk=False)
    ours: Spans = []
    theirs: Spans = []
    joints: Spans = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        if kind == "equal":
            continue
        if a1 > a0:
            ours.append((a[a0].start(), a[a1 - 1].end()))
        elif junction and a0 < len(a):
            joints.append(a[a0].span())
        if b1 > b0:
            theirs.append((b[b0].start(), b[b1 - 1].end()))
    return merge_spans([*_bridged(ours, chosen), *joints]), _bridged(theirs, rejected)


def _bridged(spans: Spans, text: str) -> Spans:
    """Spans with nothing but space, punctuation or one stop word between them become one."""
    joined: Spans = []
    for start, end in spans:
        if joined and _BRIDGE.fullmatch(text, joined[-1][1], start):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


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


def words_without(text: str, spans: Spans) -> list[str]:
    """The lower-case words and marks of the text that lie in none of the spans."""
    return [t[0].lower() for t in _TOKEN.finditer(text) if not any(s < t.end() and t.start() < e for s, e in spans)]
