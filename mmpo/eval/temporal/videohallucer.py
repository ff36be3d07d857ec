"""VideoHallucer's own rules (Wang et al. 2024, arXiv 2406.16338; patrick-tssn/VideoHallucer @ ae4c2f2), on texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LEADERBOARD = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")
"""The sets whose unweighted mean the leaderboard prints."""

SUFFIX = "\nAnswer the question using 'yes' or 'no'."
"""The text after a question in the prompt."""

_SETS: tuple[tuple[str, str], ...] = (
    ("objectrelation", "object_relation"),
    ("objrel", "object_relation"),
    ("temporal", "temporal"),
    ("semantic", "semantic_detail"),
    ("interaction", "interaction"),
    ("factdet", "fact_detect"),
    ("nonfact", "external_nonfactual"),
    ("externalfactual", "external_factual"),
    ("fact", "external_factual"),
)
"""(beginning of a file's or folder's name, its set); the first that fits: `obj_rel_MODEL.json`, `object_relation/`."""


def set_of(file: Path) -> str | None:
    """The set whose file this is, by the beginning of its name, else of its folder's; None for any other name."""
    for name in (file.stem, file.parent.name):
        plain = re.sub(r"[^a-z]", "", name.lower())
        for word, known in _SETS:
            if plain.startswith(word) or plain.startswith(f"external{word}"):
                return known
    return None


def first_word(text: str) -> str | None:
    """`yes` or `no`: the first of the two words in a text."""
    match = re.search(r"\b(yes|no)\b", text.lower())
    return match.group(1) if match else None


def official(text: str, gold: str) -> bool | None:
    """The published rule: right where the right word stands anywhere, so "yes and no" is right for both. None where
    neither word does (wrong, too).
    """
    if re.search(rf"\b({gold})\b", text, re.IGNORECASE):
        return True
    return None if first_word(text) is None else False


def published_bias(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float | None]:
    """The bias numbers of `evaluation_bias.py` from (basic right, hallucination right) of N pairs.

    They have a defect: what was said is guessed from the *other* half's being right. Ours (`yes_difference`,
    `false_positive_ratio`) go by what is said.
    """
    n = len(pairs)
    basic, other = sum(b for b, _ in pairs), sum(h for _, h in pairs)
    fooled = sum(b and not h for b, h in pairs)
    yes = basic + fooled
    no = other + sum(h and not b for b, h in pairs)
    wrong = 2 * n - basic - other
    return {
        "yes_difference": (yes - n) / (2 * n) if n else None,
        "no_difference": (no - n) / (2 * n) if n else None,
        "false_positive_ratio": fooled / wrong if wrong else None,
    }
