"""How often a demo model is right, kind of claim by kind of claim: counts, and a table of one or several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmpo.eval.statistics import wilson


@dataclass(frozen=True)
class Share:
    """How many of `asked` were right."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.right + other.right, self.asked + other.asked)

    def __str__(self) -> str:
        if not self.asked:
            return "–"
        bounds = wilson(self.right, self.asked)
        share = 100 * self.right / self.asked
        return f"{share:.1f} [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}] of {self.asked}"


Outcome = tuple[str, bool]
"""A kind of claim, and whether this claim of it is right."""


def shares(outcomes: Iterable[Outcome], kinds: Iterable[str] = ()) -> dict[str, Share]:
    """The outcomes counted by kind: `kinds` first and in their order, also where nothing was said of them."""
    found = dict.fromkeys(kinds, Share())
    for kind, right in outcomes:
        found[kind] = found.get(kind, Share()) + Share(int(right), 1)
    return found


def table(models: Mapping[str, Mapping[str, Share]], heading: str) -> str:
    """Markdown: a row for each kind, a column for each model (percent right, 95 % interval by Wilson, number)."""
    kinds = list(dict.fromkeys(kind for found in models.values() for kind in found))
    lines = [f"| {heading} | {' | '.join(models)} |", f"| --- |{' ---: |' * len(models)}"]
    lines += [
        f"| {kind} | {' | '.join(str(found.get(kind, Share())) for found in models.values())} |" for kind in kinds
    ]
    return "\n".join(lines)
