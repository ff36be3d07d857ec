"""Tokens that differ between two responses: the segments that a correction changed."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def changed_tokens(
    chosen: Sequence[int], rejected: Sequence[int], *, min_match: int = 3, insertions: bool = False
) -> tuple[list[bool], list[bool]]:
    """For each token of both responses, True if it was changed. Position k stands for token k itself, not for the
    position that predicts it.

    RLHF-V's rule (Yu et al. 2023, arXiv 2312.00849, as in its code): matching blocks of at least `min_match` tokens
    stay; what lies between two of them on both sides was changed. What one side alone has (a pure insertion or
    deletion) counts with `insertions` only.
    """
    marks = [False] * len(chosen), [False] * len(rejected)
    # autojunk would ignore frequent tokens of long responses, and with them most matches
    blocks = SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks()
    start_a = start_b = 0
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1  # an empty block that marks the ends
        if block.size < min_match and not last:
            continue
        gap_a, gap_b = range(start_a, block.a), range(start_b, block.b)
        if insertions or (gap_a and gap_b):
            for marked, gap in zip(marks, (gap_a, gap_b), strict=True):
                for position in gap:
                    marked[position] = True
        start_a, start_b = block.a + block.size, block.b + block.size
    return marks


def changed_weights(
    chosen: Sequence[int],
    rejected: Sequence[int],
    *,
    gamma: float,
    end: int | None = None,
    min_match: int = 3,
    insertions: bool = False,
) -> tuple[list[float], list[float]]:
    """`gamma` for changed tokens, 1 for the others. The end token `end`, which both sides have unedited, takes
    no part in the comparison and weighs 1."""
    rows = [list(ids[:-1]) if ids and ids[-1] == end else list(ids) for ids in (chosen, rejected)]
    marks = changed_tokens(rows[0], rows[1], min_match=min_match, insertions=insertions)
    weights = [[gamma if mark else 1.0 for mark in side] for side in marks]
    return weights[0] + [1.0] * (len(chosen) - len(rows[0])), weights[1] + [1.0] * (len(rejected) - len(rows[1]))
