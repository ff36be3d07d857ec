"""The pairs of every step: drawn once, from the seed and the lengths alone.

The whole run is laid out before it starts. That makes three things simple. Resuming is skipping. A token budget,
which gives every step another number of pairs, still has a known number of steps. And a step holds the same pairs
however it is cut into processes and accumulation: only `batch_size * accumulation * processes` matters.

In every pass over the pairs each comes once. No step holds a pair twice, unless there are fewer pairs than it takes: it
then holds all about as often, and so do its micro-batches. Where a pool of steps reaches into the next pass, the pairs
of that pass that are in the pool already wait for the next one.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from mmpo.errors import UserError

PairPart = tuple[bytes, int]
"""Something a pair asks the model to compute: its name and its tokens. What pairs of a batch have in common counts
once."""

POOL_STEPS = 8
"""Pairs are sorted by length inside pools of this many steps: little padding, and the order stays nearly random."""


@dataclass(frozen=True)
class Shape:
    """The division of one optimizer step: `processes` x `accumulation` micro-batches of at most `batch_size` pairs each
    and, with `tokens`, at most that many tokens."""

    batch_size: int
    accumulation: int = 1
    processes: int = 1
    tokens: int | None = None

    @property
    def micro_batches(self) -> int:
        return self.accumulation * self.processes

    @property
    def pairs(self) -> int:
        return self.batch_size * self.micro_batches


class Schedule:
    """The steps of a run. `steps[k]` is a list of micro-batches, each a list of pair indices; process `p` of `w`
    takes the micro-batches `p, p + w, ...`. Every step but the last has `accumulation * processes` of them; the last
    has a multiple of `processes`.

    `lengths` are the tokens of each pair. The tokens of a batch are the distinct ones where `parts` say what each pair
    is made of, else pairs times the longest, padding included. Pairs of one of the `groups` (a number for each pair)
    stay together, in one batch as far as its size allows; without groups all are mixed. Pairs that are `in_order` come
    as they are numbered, pass after pass, whatever their lengths. Give `epochs` or `max_steps`.
    Raises `UserError` where no step can be formed.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        shape: Shape,
        *,
        seed: int,
        epochs: float = 1.0,
        max_steps: int | None = None,
        groups: Sequence[int] | None = None,
        parts: Sequence[Sequence[PairPart]] | None = None,
        in_order: bool = False,
    ) -> None:
        if len(lengths) < shape.processes:
            raise UserError(
                f"{len(lengths)} training pair(s) for {shape.processes} process(es)",
                hint="use more pairs or fewer processes",
            )
        self._budget = Budget(lengths, parts)
        if shape.tokens is not None and (longest := max(map(self._budget.alone, range(len(lengths))))) > shape.tokens:
            raise UserError(
                f"the longest pair has {longest} tokens, more than tokens_per_batch = {shape.tokens}",
                hint="raise tokens_per_batch, or set max_tokens or max_pixels",
            )
        self.shape = shape
        self.n_pairs = len(lengths)
        self.steps: list[list[list[int]]] = []
        wanted = None if max_steps is not None else max(1, round(len(lengths) * epochs))
        groups = range(len(lengths)) if groups is None else groups
        shuffled = _steps(_Pairs(self._budget, groups), shape, random.Random(seed), wanted)
        for step in _steps_in_order(self._budget, shape, wanted) if in_order else shuffled:
            self.steps.append(step)
            if max_steps is not None and len(self.steps) == max_steps:
                break
        if not self.steps:
            raise UserError(f"no full step in {epochs:g} epoch(s) of {len(lengths)} pair(s)", hint="raise epochs")
        self._seen: list[int] = []
        total = 0
        for step in self.steps:
            total += sum(len(batch) for batch in step)
            self._seen.append(total)

    def __len__(self) -> int:
        return len(self.steps)

    def epoch(self, step: int) -> float:
        """Passes over the pairs after `step` steps."""
        return self.pairs_seen(step) / self.n_pairs

    def pairs_seen(self, step: int) -> int:
        """Pairs trained on in the first `step` steps, repetitions counted."""
        return self._seen[step - 1] if step > 0 else 0

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a micro-batch."""
        return self._budget.tokens(batch)

    def largest_batch(self) -> tuple[list[int], int]:
        """The micro-batch with the most tokens, and how many."""
        batches = [batch for step in self.steps for batch in step]
        sizes = [self._budget.tokens(batch) for batch in batches]
        largest = max(range(len(batches)), key=sizes.__getitem__)
        return batches[largest], sizes[largest]

    def batches(self, process: int) -> list[list[int]]:
        """The micro-batches of one process, in order."""
        return [batch for step in self.steps for batch in step[process :: self.shape.processes]]


def numbered(steps: Sequence[Sequence[Sequence[int]]], pairs: int) -> list[list[list[int]]]:
    """The steps of a schedule with the visit in each index: `visit * pairs + index`, visits counted from 0."""
    visits = [0] * pairs
    out: list[list[list[int]]] = []
    for step in steps:
        out.append([])
        for batch in step:
            out[-1].append([])
            for index in batch:
                out[-1][-1].append(visits[index] * pairs + index)
                visits[index] += 1
    return out


class Budget:
    """The number of tokens of pairs together: the distinct ones of their `parts`, or without parts the padded ones."""

    def __init__(self, lengths: Sequence[int], parts: Sequence[Sequence[PairPart]] | None = None) -> None:
        self.lengths, self._parts = lengths, parts

    def alone(self, index: int) -> int:
        """Tokens of one pair."""
        return self.tokens([index])

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a batch."""
        if self._parts is None:
            return len(batch) * max(self.lengths[index] for index in batch)
        return sum(size for _, size in {part for index in batch for part in self._parts[index]})

    def cut(self, ordered: Sequence[int], batch_size: int, tokens: int | None) -> list[list[int]]:
        """Cut pairs, in the order given, into batches of at most `batch_size` pairs and `tokens` tokens."""
        batches: list[list[int]] = []
        current: list[int] = []
        for index in ordered:
            over = current and tokens is not None and self.tokens([*current, index]) > tokens
            if current and (over or len(current) == batch_size):
                batches.append(current)
                current = []
            current.append(index)
        return [*batches, current] if current else batches


def cut(
    lengths: Sequence[int],
    batch_size: int,
    tokens: int | None = None,
    parts: Sequence[Sequence[PairPart]] | None = None,
) -> list[list[int]]:
    """Cut pairs, shortest first, into batches of at most `batch_size` pairs and `tokens` tokens (see `Budget`)."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return Budget(lengths, parts).cut(order, batch_size, tokens)


class _Pairs:
    """Lengths and groups of the pairs, and the order in which they are cut into batches: by the length of the longest
    pair of the group, groups whole, then by length."""

    def __init__(self, budget: Budget, groups: Sequence[int]) -> None:
        self.budget, lengths = budget, budget.lengths
        self.members: dict[int, list[int]] = {}
        for index, group in enumerate(groups):
            self.members.setdefault(group, []).append(index)
        longest = {group: max(lengths[i] for i in members) for group, members in self.members.items()}
        self._key = [(longest[group], group, lengths[i], i) for i, group in enumerate(groups)]

    def __len__(self) -> int:
        return len(self._key)

    def cut(self, pool: list[int], shape: Shape) -> list[list[int]]:
        pool.sort(key=self._key.__getitem__)
        batches = self.budget.cut(pool, shape.batch_size, shape.tokens)
        if len(set(pool)) == len(pool):
            return batches
        if shape.tokens is not None:  # fewer pairs than micro-batches
            return [[index] for index in pool]
        # A step of more pairs than there are: pass by pass, or where a batch then has one too often, dealt out.
        copy = [place - pool.index(index) for place, index in enumerate(pool)]
        passes = [pool[place] for place in sorted(range(len(pool)), key=lambda place: (copy[place], place))]
        whole = self.budget.cut(passes, shape.batch_size, None)
        if all(_most(batch) <= -(-len(batch) // len(self)) for batch in whole):
            return whole
        return [pool[start :: len(batches)] for start in range(len(batches))]

    def stream(self, rng: random.Random, wanted: int | None) -> Iterator[int]:
        """Indices group by group, in a new random order each pass."""
        given = 0
        while wanted is None or given < wanted:
            names = list(self.members)
            rng.shuffle(names)
            order = [index for name in names for index in self.members[name]]
            if wanted is not None:
                order = order[: wanted - given]
            given += len(order)
            yield from order


def _most(batch: Sequence[int]) -> int:
    """How often the pair that a batch holds most often is in it."""
    return max(Counter(batch).values())


def _steps(pairs: _Pairs, shape: Shape, rng: random.Random, wanted: int | None) -> Iterator[list[list[int]]]:
    """Full steps from one endless shuffled stream, or from its first `wanted` pairs and then a shorter last step."""
    # Without a token budget pools are full steps, and the last one is cut off. With one, batches that fill no step are
    # carried on, so that of the last pass every pair must come in.
    counted = shape.tokens is None
    stream = pairs.stream(rng, None if counted else wanted)
    left = wanted if counted else None
    size = _pool_size(len(pairs), shape, one_pass=wanted is not None and wanted <= len(pairs))
    rest: list[int] = []  # pairs of a pool that did not fill a step open the next pool
    waiting: list[int] = []  # what the stream gave of pairs that were in the pool already
    while True:
        room = size if left is None else min(size, len(rest) + left)
        pool, waiting = _pool(rest, waiting, stream, room, len(pairs))
        left = None if left is None else left - (len(pool) - len(rest))
        batches = pairs.cut(pool, shape)
        if len(pool) < size and (counted or not waiting or len(pool) < shape.micro_batches):
            # What waits now is, under a token budget, less than a step and of the last step's pairs: it is left out.
            yield from _last_steps(pool, pairs, shape, rng)
            return
        if len(batches) < shape.micro_batches:  # they fill no step: make as many as it needs
            batches = _even(batches, shape.micro_batches)
        full, rest = _full_steps(_left_over_last(batches, shape, set(waiting)), shape)
        rng.shuffle(full)
        yield from full


def _steps_in_order(budget: Budget, shape: Shape, wanted: int | None) -> Iterator[list[list[int]]]:
    """Steps of pairs that follow one another, `wanted` of them (endless where None); the last step may be shorter."""
    step: list[list[int]] = []
    batch: list[int] = []
    for number in count() if wanted is None else range(wanted):
        index = number % len(budget.lengths)
        over = shape.tokens is not None and batch and budget.tokens([*batch, index]) > shape.tokens
        if over or len(batch) == shape.batch_size:
            step, batch = [*step, batch], []
            if len(step) == shape.micro_batches:
                yield step
                step = []
        batch.append(index)
    if last := _even([*step, batch] if batch else step, shape.processes):
        yield last


def _pool_size(n: int, shape: Shape, *, one_pass: bool) -> int:
    """The pairs that are sorted together: of fewer pairs than pools are large, as many as make full steps, so that a
    pool holds none twice. A token budget makes its own steps of whatever the pool is."""
    largest = POOL_STEPS * shape.pairs
    if n >= largest or one_pass:
        return largest
    if shape.tokens is None:
        return max(1, n // shape.pairs) * shape.pairs
    return max(n, shape.micro_batches)


def _pool(rest: list[int], waiting: list[int], stream: Iterator[int], size: int, n: int) -> tuple[list[int], list[int]]:
    """(`rest` with the next indices of what waits and of the stream, up to `size`; what waits now.) An index comes in
    again only after all `n` did: till then it waits."""
    pool, held = list(rest), Counter(rest)
    coming, later = deque(waiting), list[int]()
    while len(pool) < size:
        index = coming.popleft() if coming else next(stream, None)
        if index is None:
            break
        if held[index] > len(pool) // n:
            later.append(index)
            continue
        pool.append(index)
        held[index] += 1
        if len(pool) % n == 0:
            coming.extendleft(reversed(later))
            later = []
    return pool, [*later, *coming]


def _left_over_last(batches: list[list[int]], shape: Shape, waiting: set[int]) -> list[list[int]]:
    """The batches with those behind that fill no step: the last ones, but none with a pair that is waited for, as long
    as there are others. So long pairs, which a token budget leaves over again and again, are trained in every pass."""
    left = len(batches) % shape.micro_batches
    if not left or not waiting or shape.tokens is None:
        return batches
    awaited = [not waiting.isdisjoint(batch) for batch in batches]
    behind = sorted(sorted(range(len(batches)), key=lambda i: (awaited[i], -i))[:left])
    return [batch for i, batch in enumerate(batches) if i not in behind] + [batches[i] for i in behind]


def _last_steps(pool: list[int], pairs: _Pairs, shape: Shape, rng: random.Random) -> Iterator[list[list[int]]]:
    full, rest = _full_steps(pairs.cut(pool, shape), shape)
    rng.shuffle(full)
    yield from full
    if last := _even(pairs.cut(rest, shape), shape.processes):
        yield last


def _full_steps(batches: list[list[int]], shape: Shape) -> tuple[list[list[list[int]]], list[int]]:
    """Group micro-batches into full steps; what is left over comes back as pairs."""
    size = shape.micro_batches
    usable = len(batches) // size * size
    full = [batches[i : i + size] for i in range(0, usable, size)]
    # Only the last batch of a pool can be short. Its step then comes last in the run, so that the cut does not matter.
    if shape.tokens is None and full and sum(map(len, full[-1])) < shape.pairs:
        short = full.pop()
        return full, [index for batch in short for index in batch]
    return full, [index for batch in batches[usable:] for index in batch]


def _even(batches: list[list[int]], processes: int) -> list[list[int]]:
    """Split batches until every process gets as many; single pairs that still do not fit are left out."""
    batches = list(batches)
    while len(batches) % processes:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        if len(batches[largest]) == 1:
            return batches[: len(batches) // processes * processes]
        batch = batches[largest]
        batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches
