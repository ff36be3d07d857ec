"""What keeps a set of pairs from teaching something else than truth: short answers, silence, or one word.

Pure functions from facts about all pairs to the ids that go. Each looks at what is left by those before it, and all are
asked again until none takes anything: a set that passes passes as a whole. Ties go by id, so the outcome depends on the
pairs alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from pydantic import Field

from mmpo.settings import Settings

SHORTER = (0.35, 0.65)
"""Between these shares of the pairs, the chosen side is the shorter one; beyond them there is a warning."""


class GuardSettings(Settings):
    """Guards over all pairs together. Each can be switched off with null."""

    length: float | None = Field(
        default=0.02,
        ge=0,
        description="Most that the mean lengths of the sides may differ, as a share; the most unequal pairs of the "
        "longer side go.",
    )
    recall: float | None = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Most by which chosen sides may name less of what is there than rejected ones, in the mean.",
    )
    object_cap: float | None = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Largest share of the pairs that may be about one and the same made-up class.",
    )
    polarity: float | None = Field(
        default=2.0,
        gt=0,
        description="Most pairs that punish naming a class, for each pair that rewards naming it where it is there.",
    )
    least: int = Field(default=5, ge=0, description="So many pairs about a class are allowed in any case.")
    refuse_style: float | None = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="Refuse pairs whose sides style alone separates with an AUROC above this (lower end of its "
        "interval; above 0.6 there is a warning).",
    )

    @classmethod
    def off(cls) -> GuardSettings:
        """None of them, for methods as they were published."""
        return cls(length=None, recall=None, object_cap=None, polarity=None, refuse_style=None)


@dataclass(frozen=True)
class PairFacts:
    """What the guards know of a pair. `punished` and `rewarded` are classes (`MadePair`); `free_length`: the guards of
    length and recall don't look at it."""

    id: str
    kind: str
    words: tuple[int, int]
    recall: tuple[float | None, float | None] = (None, None)
    punished: frozenset[str] = frozenset()
    rewarded: frozenset[str] = frozenset()
    free_length: bool = False

    @property
    def longer(self) -> int:
        """The number of words by which chosen is longer."""
        return self.words[0] - self.words[1]


GuardRule: TypeAlias = Callable[[Sequence[PairFacts]], set[str]]


@dataclass(frozen=True)
class GuardOutcome:
    """Where all pairs went: `dropped` has the reason of each that goes, `warnings` what to know of the rest."""

    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def guarded(pairs: Sequence[PairFacts], settings: GuardSettings) -> GuardOutcome:
    """Apply all guards until none takes anything more."""
    rules: list[tuple[str, GuardRule]] = []
    if settings.object_cap is not None:
        rules.append(("object_cap", partial(over_object_cap, share=settings.object_cap, least=settings.least)))
    if settings.polarity is not None:
        rules.append(("polarity", partial(one_sided, factor=settings.polarity, least=settings.least)))
    if settings.length is not None:
        rules.append(("length", partial(unequal_length, most=settings.length)))
    if settings.recall is not None:
        rules.append(("recall", partial(less_recall, most=settings.recall)))
    dropped: dict[str, str] = {}
    left = list(pairs)
    changed = True
    while changed and left:
        changed = False
        for name, rule in rules:
            if out := rule(left):
                dropped |= dict.fromkeys(sorted(out), name)
                left = [pair for pair in left if pair.id not in out]
                changed = True
    return GuardOutcome(dropped, length_warnings(left))


def over_object_cap(pairs: Sequence[PairFacts], *, share: float, least: int) -> set[str]:
    """The last pairs that punish a class which more than `share` of all pairs (and more than `least`) are about, the
    commonest class first."""
    left = _ByClass(pairs)
    while left.punished:
        name = left.commonest(left.punished)
        if left.punished[name] <= max(least, int(share * left.size + 1e-9)):
            break
        left.drop_last(name)
    return left.out


def one_sided(pairs: Sequence[PairFacts], *, factor: float, least: int) -> set[str]:
    """The last pairs that punish naming a class more often than `factor` times as often as others reward it (and more
    than `least` times): a policy would learn never to say the word. The commonest class first."""
    left = _ByClass(pairs)
    while True:
        allowed = {name: max(least, factor * left.rewarded[name]) for name in left.punished}
        over = {name: count for name, count in left.punished.items() if count > allowed[name]}
        if not over:
            return left.out
        name = left.commonest(over)
        while left.punished[name] > max(least, factor * left.rewarded[name]):
            left.drop_last(name)


class _ByClass:
    """Pairs by the classes that they punish, while some of them go."""

    def __init__(self, pairs: Sequence[PairFacts]) -> None:
        self.size = len(pairs)
        self.punished = Counter(name for pair in pairs for name in pair.punished)
        self.rewarded = Counter(name for pair in pairs for name in pair.rewarded)
        self.out: set[str] = set()
        self._of: dict[str, list[PairFacts]] = {}
        for pair in pairs:
            for name in pair.punished:
                self._of.setdefault(name, []).append(pair)

    @staticmethod
    def commonest(counts: Mapping[str, int]) -> str:
        return min(counts, key=lambda name: (-counts[name], name))

    def drop_last(self, name: str) -> None:
        """Take out the last pair that punishes this class."""
        pair = self._of[name].pop()
        while pair.id in self.out:  # it went for another class
            pair = self._of[name].pop()
        self.out.add(pair.id)
        self.size -= 1
        self.punished -= Counter(pair.punished)
        self.rewarded -= Counter(pair.rewarded)


def unequal_length(pairs: Sequence[PairFacts], *, most: float) -> set[str]:
    """Pairs to leave out until |mean chosen − mean rejected| / mean rejected is at most `most`, in words: those with
    the largest difference on the side that is longer in the mean."""
    counted = [pair for pair in pairs if not pair.free_length]
    chosen, rejected = (sum(pair.words[side] for pair in counted) for side in (0, 1))
    order = sorted(counted, key=lambda pair: (pair.longer, pair.id))
    first, last, out = 0, len(order) - 1, set[str]()
    while first <= last and abs(chosen - rejected) > most * rejected:
        if chosen > rejected:
            pair, last = order[last], last - 1
        else:
            pair, first = order[first], first + 1
        chosen, rejected = chosen - pair.words[0], rejected - pair.words[1]
        out.add(pair.id)
    return out


def less_recall(pairs: Sequence[PairFacts], *, most: float) -> set[str]:
    """Pairs to leave out until the mean recall of chosen sides is at most `most` below that of rejected ones: those
    whose chosen side loses most."""
    gains = sorted(
        (pair.recall[0] - pair.recall[1], pair.id)
        for pair in pairs
        if not pair.free_length and pair.recall[0] is not None and pair.recall[1] is not None
    )
    out: set[str] = set()
    total = sum(gain for gain, _ in gains)
    for number, (gain, id) in enumerate(gains):
        if total >= -most * (len(gains) - number) - 1e-9:
            break
        total -= gain
        out.add(id)
    return out


def length_warnings(pairs: Iterable[PairFacts]) -> list[str]:
    """A warning where the chosen side is the shorter one too seldom or too often."""
    counted = [pair for pair in pairs if not pair.free_length and pair.longer]
    if not counted:
        return []
    share = sum(pair.longer < 0 for pair in counted) / len(counted)
    if SHORTER[0] <= share <= SHORTER[1]:
        return []
    return [
        f"the chosen side is the shorter one in {share:.0%} of {len(counted):,} pairs of unequal length "
        f"(wanted: {SHORTER[0]:.0%} to {SHORTER[1]:.0%}); a policy may learn length"
    ]


def rlaif_v_length(pairs: Sequence[PairFacts]) -> tuple[float, set[str]]:
    """RLAIF-V's filter (Yu et al. 2024, arXiv:2405.17220, released code): of the thresholds r = 0, 0.02, …, 0.98, drop
    pairs with (rejected words − chosen words) / rejected words > r, and take the first r of the least imbalance
    |mean chosen − mean rejected| / mean rejected. Returns r and the dropped ids. Only pairs whose chosen side is too
    short are ever dropped.
    """
    best = (float("inf"), 0.0, {pair.id for pair in pairs})
    for step in range(50):
        r = step * 0.02
        kept = [pair for pair in pairs if -pair.longer <= r * pair.words[1] + 1e-9]
        if not kept:
            continue
        chosen, rejected = (sum(pair.words[side] for pair in kept) for side in (0, 1))
        imbalance = abs(chosen - rejected) / max(rejected, 1)
        if imbalance < best[0] - 1e-12:
            best = (imbalance, r, {pair.id for pair in pairs} - {pair.id for pair in kept})
    return best[1], best[2]
