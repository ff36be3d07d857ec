"""Choice of the sampled answers that become a pair: LLaVA-Hound-DPO's rule (arXiv 2404.01258, 3.3), with options."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

Pick = Literal["random", "extreme", "closest_length"]


def choose(
    scores: Sequence[float | None],
    texts: Sequence[str],
    *,
    threshold: float = 3.0,
    min_gap: float = 0.0,
    count: int = 1,
    pick: Pick = "random",
    seed: str = "0",
) -> tuple[list[tuple[int, int]], str]:
    """(chosen, rejected) numbers of one question's answers, at most `count`, no answer twice on the same side unless
    there is no other; and the reason where there are none.

    Good is a score of at least `threshold`, bad a lower one, None neither. Reasons: `unscored` (fewer than two
    scores), `all_good`, `all_bad` (one-sided questions teach nothing), `gap`.
    """
    scored = [i for i, score in enumerate(scores) if score is not None]
    if len(scored) < 2:
        return [], "unscored"
    value = {i: float(scores[i]) for i in scored}  # type: ignore[arg-type]
    good = [i for i in scored if value[i] >= threshold]
    bad = [i for i in scored if value[i] < threshold]
    if not bad:
        return [], "all_good"
    if not good:
        return [], "all_bad"
    pairs = [(g, b) for g in good for b in bad if value[g] - value[b] >= min_gap]
    if not pairs:
        return [], "gap"
    random.Random(seed).shuffle(pairs)
    if pick == "extreme":
        pairs.sort(key=lambda pair: value[pair[1]] - value[pair[0]])
    elif pick == "closest_length":
        pairs.sort(key=lambda pair: abs(len(texts[pair[0]].split()) - len(texts[pair[1]].split())))
    taken: list[tuple[int, int]] = []
    for fresh in (2, 1, 0):  # both answers new, then one, then neither
        for pair in pairs:
            if len(taken) == count:
                return taken, ""
            new = (pair[0] not in {g for g, _ in taken}) + (pair[1] not in {b for _, b in taken})
            if pair not in taken and new >= fresh:
                taken.append(pair)
    return taken, ""


def normalized(text: str) -> str:
    """An answer's words in lower case, without punctuation: two answers with the same words are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))
