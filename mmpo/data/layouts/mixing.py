"""The number of pictures in each prompt, and the choice of those beside the target; exact shares, seeded draws."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from mmpo.errors import Quarantined, UserError

T = TypeVar("T")

SEQUENCE_MIX = {2: 34_300, 3: 10_050, 4: 9_950, 5: 8_161}
"""Sequences by number of images, over all 62,461 records (published)."""

COLLAGE_MIX = {2: 48_000, 3: 14_000, 4: 14_000, 6: 7_000, 9: 7_000}
"""The 90,000 collages that the released training reads, by number of pictures."""

COLLAGE_TARGETS = {2: 1, 3: 2, 4: 2, 6: 3, 9: 3}
"""The number of pictures asked about in a collage of that set, by the number of its pictures."""


class Distinct(tuple[str, ...]):
    """Paths, each once, in order."""

    def __new__(cls, paths: Iterable[str]) -> Distinct:
        return super().__new__(cls, dict.fromkeys(paths))


def quotas(total: int, weights: Mapping[int, float]) -> list[int]:
    """`total` sizes in the proportions of `weights`, by largest remainder: the smallest size first, as published."""
    if not weights or any(weight < 0 for weight in weights.values()) or not sum(weights.values()):
        raise UserError(f"proportions {dict(weights)} must be numbers of at least 0, one above 0")
    sizes = sorted(weights)
    whole = sum(weights.values())
    exact = {size: total * weights[size] / whole for size in sizes}
    counts = {size: int(exact[size]) for size in sizes}
    left = sorted(sizes, key=lambda size: (counts[size] - exact[size], size))
    for size in left[: total - sum(counts.values())]:
        counts[size] += 1
    return [size for size in sizes for _ in range(counts[size])]


def companions(
    target: str | Sequence[str], pool: Sequence[str], count: int, rng: random.Random, *, official: bool = False
) -> list[str]:
    """`count` other paths of `pool`, each at most once and none the target's. Raises Quarantined where there are too
    few. `official` draws from a list with one entry a record, in which a path may come twice; a list of distinct paths
    is drawn from without looking at all of it."""
    targets = {target} if isinstance(target, str) else set(target)
    entries: Sequence[str] = pool if official or isinstance(pool, Distinct) else Distinct(pool)
    if len(entries) > 8 * (count + len(targets)):  # a few draws find enough of a long list
        drawn: dict[int, str] = {}
        for _ in range(64 * (count + 1)):
            if len(drawn) == count:
                return list(drawn.values())
            place = rng.randrange(len(entries))
            if entries[place] not in targets:
                drawn[place] = entries[place]
    others = [path for path in entries if path not in targets]
    if len(others) < count:
        raise Quarantined("layout", "too_few_companions", f"{count} wanted, {len(others)} there")
    return rng.sample(others, count)


def shuffled(items: Sequence[T], rng: random.Random) -> tuple[list[T], list[int]]:
    """The items in a drawn order, and where each of the given ones is now."""
    order = list(range(len(items)))
    rng.shuffle(order)
    return [items[number] for number in order], [order.index(number) for number in range(len(items))]
