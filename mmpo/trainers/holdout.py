"""The pairs held out for evaluation: about the requested share, and no image on both sides.

Pairs that share an image are linked, and linked pairs form groups. Whole groups are held out, small ones first, so that
their pairs come as near to the share as they can. Where that leaves too few (sequences that borrow one another's
images make one group of nearly everything), a group is cut: some images go to evaluation with the pairs that show
nothing else, and the pairs that straddle the cut are left out of both.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmpo.errors import Quarantined
from mmpo.trainers.collate import STAGE, EncodedPair, EncodedPairs, OnReject

logger = logging.getLogger(__name__)

TOLERANCE = 0.2
"""The largest deviation of the held-out share from the requested one, relative to it; one pair is always allowed."""

STRADDLES = "straddles_hold_out"
"""The reason of pairs that show images of both sides."""

_STARTS = 6
"""Places from which a cut is tried; the one that leaves out the fewest pairs is taken."""


def hold_out(
    pairs: EncodedPairs,
    fraction: float,
    seed: int,
    *,
    images: Callable[[EncodedPair], Iterable[str]] = lambda row: row.all_images,
    on_reject: OnReject | None = None,
) -> tuple[EncodedPairs, EncodedPairs]:
    """Pairs to train on, and about `fraction` of the pairs to evaluate on. `images` names what a pair shows.

    No image is on both sides, nor are twins. Pairs left out to keep it so are counted in the first result's
    `dropped` and passed to `on_reject`. What was done is logged. Where no cut leaves a pair to train on, none is held
    out.
    """
    if fraction == 0 or len(pairs) < 2:
        return EncodedPairs(pairs.rows), EncodedPairs([])
    units = _units(pairs, images)
    target = _Target(len(pairs), fraction)
    groups = _groups(units)
    random.Random(seed).shuffle(groups)
    held, dropped = _whole_groups(units, groups, target), set[int]()
    if not target.allows(sum(len(units[u].rows) for u in held)):
        held, dropped = _with_a_cut(units, held, target, seed)
    sides: tuple[list[EncodedPair], list[EncodedPair]] = ([], [])
    owner = {row: u for u, unit in enumerate(units) for row in unit.rows}
    left_out: Counter[str] = Counter()
    for number, row in enumerate(pairs.rows):
        if owner[number] in dropped:
            left_out[STRADDLES] += 1
            if on_reject is not None:
                on_reject(row.id, Quarantined(STAGE, STRADDLES, "shows images of training and of evaluation"))
        else:
            sides[owner[number] in held].append(row)
    _say(len(pairs), fraction, len(sides[1]), left_out.total(), max(map(len, groups)))
    return EncodedPairs(sides[0], left_out), EncodedPairs(sides[1])


class _Target:
    """The number of pairs to hold out of `total`."""

    def __init__(self, total: int, fraction: float) -> None:
        self.exact = exact = fraction * total
        self.total = total
        self.wanted = min(max(1, round(exact)), total - 1)
        self.least = max(1, min(math.ceil((1 - TOLERANCE) * exact), self.wanted - 1))
        self.most = min(max(math.floor((1 + TOLERANCE) * exact), self.wanted + 1), total - 1)

    def allows(self, held: int) -> bool:
        return self.least <= held <= self.most

    def away(self, held: int) -> int:
        """0 within the tolerance, 1 within one pair, else 2."""
        if abs(held - self.exact) <= TOLERANCE * self.exact:
            return 0
        return 1 if self.allows(held) else 2


@dataclass
class _Unit:
    """Pairs that only go together (a pair and its twin), and the images that they show."""

    rows: list[int]
    images: list[str]


def _units(pairs: EncodedPairs, images: Callable[[EncodedPair], Iterable[str]]) -> list[_Unit]:
    place = {row.id: i for i, row in enumerate(pairs.rows)}
    twins = [[i, place[row.twin]] if row.twin in place else [i] for i, row in enumerate(pairs.rows)]
    shown = [list(images(row)) for row in pairs.rows]
    return [
        _Unit(members, list(dict.fromkeys(key for i in members for key in shown[i])))
        for members in _linked(len(pairs), twins)
    ]


def _groups(units: Sequence[_Unit]) -> list[list[int]]:
    """Numbers of the units that are linked through images."""
    members: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        for key in unit.images:
            members.setdefault(key, []).append(number)
    return _linked(len(units), members.values())


def _linked(n: int, links: Iterable[Sequence[int]]) -> list[list[int]]:
    """0 … n-1 in groups of those that links join, in order of their first members."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for link in links:
        for other in link[1:]:
            a, b = sorted((root(link[0]), root(other)))
            parent[b] = a
    found: dict[int, list[int]] = {}
    for i in range(n):
        found.setdefault(root(i), []).append(i)
    return list(found.values())


def _whole_groups(units: Sequence[_Unit], groups: Sequence[Sequence[int]], target: _Target) -> set[int]:
    """Units of whole groups whose pairs together come nearest to the target without passing what is allowed; of equal
    choices the one with the smaller groups."""
    sizes = [sum(len(units[u].rows) for u in group) for group in groups]
    order = sorted(range(len(groups)), key=sizes.__getitem__)  # stable: equal sizes stay shuffled
    sums, mask = 1, (1 << (target.most + 1)) - 1  # bit s: s pairs can be held out
    last: dict[int, int] = {}  # a number of pairs -> the group with which it was first reached
    for group in order:
        if sizes[group] > target.most or sums >> target.wanted & 1:
            break
        new = (sums << sizes[group] & mask) & ~sums
        sums |= new
        while new:
            lowest = new & -new
            last[lowest.bit_length() - 1] = group
            new ^= lowest
    best = min(last, key=lambda s: (abs(s - target.exact), s), default=0)
    if not target.allows(best):  # a cut makes up for what is missing
        best = max((s for s in last if s < target.least), default=0)
    held: set[int] = set()
    while best:
        group = last[best]
        held.update(groups[group])
        best -= sizes[group]
    return held


def _with_a_cut(units: Sequence[_Unit], whole: set[int], target: _Target, seed: int) -> tuple[set[int], set[int]]:
    """More units besides the `whole` groups, and those that straddle. Evaluation takes one image after another, always
    what brings the fewest further pairs onto the edge, from several starts."""
    showing: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        if number not in whole:
            for key in unit.images:
                showing.setdefault(key, []).append(number)
    rest = [number for number in range(len(units)) if number not in whole and units[number].images]
    cost = {number: sum(len(showing[key]) for key in units[number].images) for number in rest}
    cheapest = sorted(rest, key=cost.__getitem__)[:1]
    starts = cheapest + random.Random(seed).sample(rest, min(len(rest), _STARTS))
    before = sum(len(units[u].rows) for u in whole)
    cuts = [(target.away(before), abs(before / target.wanted - 1), set(whole), set[int]())]  # none
    for start in starts:
        if cut := _grow(units, whole, showing, cost, start, target):
            cuts.append(cut)
    _, _, held, dropped = min(cuts, key=lambda cut: cut[:2])
    return held, dropped


def _grow(
    units: Sequence[_Unit],
    whole: set[int],
    showing: dict[str, list[int]],
    cost: dict[int, int],
    start: int,
    target: _Target,
) -> tuple[int, float, set[int], set[int]] | None:
    """The best cut met on the way from `start`: (how far away its share is, how bad it is, held, dropped); None where
    none leaves pairs on both sides."""
    missing = {number: len(units[number].images) for number in cost}
    price = dict(cost)
    taken: set[str] = set()
    inside: list[int] = []
    edge: set[int] = set()
    held, dropped = sum(len(units[u].rows) for u in whole), 0
    best: tuple[int, float, int, set[int]] | None = None
    queue = [(0, start)]
    queue += [(price[number], number) for number in cost if number != start]
    heapq.heapify(queue)
    while queue:
        value, number = heapq.heappop(queue)
        if missing[number] == 0 or (value != price[number] and number != start):
            continue
        for key in units[number].images:
            if key in taken:
                continue
            taken.add(key)
            for other in showing[key]:
                missing[other] -= 1
                price[other] -= len(showing[key])
                size = len(units[other].rows)
                if missing[other] == 0:
                    inside.append(other)
                    held += size
                    if other in edge:
                        edge.discard(other)
                        dropped -= size
                else:
                    if other not in edge:
                        edge.add(other)
                        dropped += size
                    heapq.heappush(queue, (price[other], other))
        if held > target.most or held + dropped >= target.total:
            break
        away = target.away(held)
        kept = target.total - dropped
        asked = target.exact / target.total
        # Of what is left the share should be right as well, and few pairs should be lost.
        badness = abs(held / target.wanted - 1) if away == 2 else dropped / target.total + abs(held / kept / asked - 1)
        if best is None or (away, badness) < best[:2]:
            best = away, badness, len(inside), set(edge)
    if best is None:
        return None
    return best[0], best[1], whole | set(inside[: best[2]]), best[3]


def _say(total: int, fraction: float, held: int, left_out: int, largest: int) -> None:
    asked = f"eval_fraction: {fraction:g} asks for {fraction * total:.0f} of {total:,} pairs"
    if not held:
        logger.warning(
            "nothing is held out for evaluation: %s, but one image links them all; give eval_pairs or eval_fraction: 0",
            asked,
        )
    elif left_out:
        logger.warning(
            "held out %s pairs for evaluation and left out %s more that show images of both sides (%s; %s pairs are "
            "linked by the images they share); eval_pairs, or eval_fraction: 0, keeps them",
            f"{held:,}", f"{left_out:,}", asked, f"{largest:,}",
        )  # fmt: skip
    else:
        logger.info("held out %s of %s pairs for evaluation, by image", f"{held:,}", f"{total:,}")
