"""Lengths of chosen and rejected sides: pure functions of arrays [n], in whatever unit lengths are counted."""

from __future__ import annotations

import numpy as np

from mmpo.select.margins import Mask, Numbers, Places

STEPS = 1000
"""Steps of DICE's grid of alpha, 0 to 1."""


def shortest_allowed(chosen: Numbers, rejected: Numbers) -> tuple[float, Mask]:
    """RLAIF-V's filter: (r, [n] kept). Of r = 0, 0.02, …, 0.98 the first with the least |mean chosen - mean rejected| /
    mean rejected among the pairs whose chosen side is shorter by no more than r of the rejected one."""
    short = (rejected - chosen) / np.maximum(rejected, 1)
    found: tuple[float, float] | None = None
    for hundredth in range(0, 100, 2):
        kept = short <= hundredth / 100 + 1e-12
        if not kept.any():
            continue
        imbalance = abs(float(chosen[kept].mean() - rejected[kept].mean())) / max(float(rejected[kept].mean()), 1e-12)
        if found is None or imbalance < found[0] - 1e-12:
            found = imbalance, hundredth / 100
    threshold = 0.98 if found is None else found[1]
    return threshold, short <= threshold + 1e-12


def balanced(chosen: Numbers, rejected: Numbers, within: float) -> Mask:
    """[n], what is kept so that |mean chosen - mean rejected| <= `within` of mean rejected: pairs go by the largest
    difference on the side that is longer in the mean, one after another (of equal ones the first). Nothing is kept
    where no part of the pairs is so even."""
    difference = chosen - rejected
    kept = np.ones(len(chosen), dtype=np.bool_)
    while kept.any():
        total, base = float(difference[kept].sum()), float(rejected[kept].sum())
        if abs(total) <= within * base:
            return kept
        sign = 1.0 if total > 0 else -1.0
        places = np.flatnonzero(kept & (sign * difference > 0))
        places = places[np.argsort(-sign * difference[places], kind="stable")]
        totals = total - np.cumsum(difference[places])
        bases = base - np.cumsum(rejected[places])
        # As far as the means meet, or the other side becomes the longer one.
        ends = (np.abs(totals) <= within * bases + 1e-9) | (sign * totals <= 0)
        kept[places[: int(np.argmax(ends)) + 1 if ends.any() else len(places)]] = False
    return kept


def debiased_choice(margins: Numbers, lengths: Numbers, prompts: Places) -> tuple[float, Mask]:
    """DICE's choice (arXiv 2406.09760): (alpha, [n] the best pair of each prompt by margin - alpha * length). `lengths`
    are differences, chosen minus rejected. Alpha is the first of 0, 0.001, …, 1 at which the mean difference of what is
    chosen is least; the search ends where it grows."""
    chosen = np.zeros(len(margins), dtype=np.bool_)
    if not len(margins):
        return 0.0, chosen
    _, group = np.unique(prompts, return_inverse=True)
    order = np.argsort(group, kind="stable")
    sorted_group, margin, length = group[order], margins[order], lengths[order]
    starts = np.flatnonzero(np.r_[True, np.diff(sorted_group) > 0])

    def choice(alpha: float) -> Places:
        """The places in `order` of the best of each prompt, of equal ones the first."""
        value = margin - alpha * length
        top = np.maximum.reduceat(value, starts)[sorted_group]
        places = np.flatnonzero(value >= top)
        first = np.r_[True, np.diff(sorted_group[places]) > 0]
        return places[first]

    found = choice(0.0)
    least, alpha = abs(float(length[found].mean())), 0.0
    if len(starts) < len(margins):
        for step in range(1, STEPS + 1):
            now = choice(step / STEPS)
            imbalance = abs(float(length[now].mean()))
            if imbalance > least + 1e-12:
                break
            if imbalance < least - 1e-12:
                least, alpha, found = imbalance, step / STEPS, now
    chosen[order[found]] = True
    return alpha, chosen
