"""The schedule: which pairs are in which step, and nothing else decides it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.trainers.schedule import Schedule, Shape, cut

_rng = random.Random(1)
LENGTHS = [_rng.randint(20, 90) for _ in range(137)]


def members(schedule: Schedule) -> list[list[int]]:
    return [sorted(index for batch in step for index in batch) for step in schedule.steps]


def test_every_pair_comes_once_per_epoch() -> None:
    schedule = Schedule(LENGTHS, Shape(8), seed=3, epochs=2)
    seen = Counter(index for step in members(schedule) for index in step)
    assert set(seen.values()) == {2} and len(seen) == 137
    assert schedule.epoch(len(schedule)) == 2.0
    assert schedule.epoch(0) == 0.0


@pytest.mark.parametrize("shape", [Shape(4, accumulation=4), Shape(4, 2, 2), Shape(1, 8, 2), Shape(8, 1, 2)])
def test_a_step_holds_the_same_pairs_however_it_is_cut(shape: Shape) -> None:
    whole = Schedule(LENGTHS, Shape(16), seed=5, epochs=2.5)
    assert members(Schedule(LENGTHS, shape, seed=5, epochs=2.5)) == members(whole)


def test_the_order_follows_the_seed() -> None:
    first = Schedule(LENGTHS, Shape(8), seed=0).steps
    assert first == Schedule(LENGTHS, Shape(8), seed=0).steps
    assert first != Schedule(LENGTHS, Shape(8), seed=1).steps


def test_processes_share_a_step_evenly() -> None:
    shape = Shape(3, accumulation=2, processes=2)
    schedule = Schedule(LENGTHS, shape, seed=0)
    mine, other = schedule.batches(0), schedule.batches(1)
    assert len(mine) == len(other)
    assert all(len(step) == shape.micro_batches for step in schedule.steps[:-1])
    assert len(schedule.steps[-1]) % shape.processes == 0
    assert not {i for b in mine[: 2 * 5] for i in b} & {i for b in other[: 2 * 5] for i in b}


def test_the_token_budget_holds_and_loses_no_pair() -> None:
    schedule = Schedule(LENGTHS, Shape(16, accumulation=2, tokens=400), seed=0, epochs=3)
    batches = [batch for step in schedule.steps for batch in step]
    assert max(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches) <= 400
    assert max(map(len, batches)) > 4  # short pairs travel in larger batches
    assert set(Counter(i for batch in batches for i in batch).values()) == {3}


def test_lengths_within_a_batch_are_close() -> None:
    def padding(steps: list[list[list[int]]]) -> int:
        return sum(len(b) * max(LENGTHS[i] for i in b) - sum(LENGTHS[i] for i in b) for step in steps for b in step)

    plain = list(range(137))
    random.Random(0).shuffle(plain)
    unsorted = [[plain[i : i + 8]] for i in range(0, 137, 8)]
    assert padding(Schedule(LENGTHS, Shape(8), seed=0).steps) < 0.5 * padding(unsorted)


def test_max_steps_repeats_the_pairs() -> None:
    schedule = Schedule(LENGTHS[:5], Shape(4), seed=0, max_steps=9)
    assert len(schedule) == 9
    assert all(len(step[0]) == 4 for step in schedule.steps)
    assert schedule.epoch(9) == pytest.approx(36 / 5)


def test_cut_sorts_and_respects_both_limits() -> None:
    batches = cut([5, 1, 4, 2, 3], 2)
    assert batches == [[1, 3], [4, 2], [0]]
    assert cut([5, 1, 4, 2, 3], 9, tokens=6) == [[1, 3], [4], [2], [0]]
    assert cut([], 2) == []


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(UserError, match="fewer processes"):
        Schedule([10], Shape(1, processes=2), seed=0)
    with pytest.raises(UserError, match="longest pair has 90 tokens"):
        Schedule([10, 90], Shape(4, tokens=50), seed=0)
    with pytest.raises(UserError, match="no full step"):
        Schedule([10, 10, 10], Shape(1, processes=3), seed=0, epochs=0.4)


@pytest.mark.parametrize("shape", [Shape(9), Shape(9, accumulation=2), Shape(18, tokens=900)])
def test_groups_stay_in_one_batch_and_lose_no_pair(shape: Shape) -> None:
    lengths = [40 + index % 7 for index in range(90)]
    groups = [index // 9 for index in range(90)]
    schedule = Schedule(lengths, shape, seed=2, epochs=2, groups=groups)
    batches = [batch for step in schedule.steps for batch in step]
    assert set(Counter(i for batch in batches for i in batch).values()) == {2}
    assert all(len({groups[i] for i in batch}) <= len(batch) / 9 for batch in batches if len(batch) >= 9)
    assert len({tuple(sorted({groups[i] for i in batch})) for batch in batches}) > 3


def test_groups_come_in_random_order() -> None:
    lengths, groups = [40] * 90, [index // 9 for index in range(90)]
    first = [groups[i] for i in Schedule(lengths, Shape(9), seed=0, groups=groups).batches(0)[0]]
    orders = {
        tuple(groups[batch[0]] for batch in Schedule(lengths, Shape(9), seed=s, groups=groups).batches(0))
        for s in range(5)
    }
    assert len(set(first)) == 1 and len(orders) == 5


@pytest.mark.parametrize("shape", [Shape(8), Shape(2, 2, 2), Shape(1, 8), Shape(4, 1, 2)])
def test_pairs_in_order_stay_so(shape: Shape) -> None:
    schedule = Schedule(LENGTHS, shape, seed=3, epochs=1.5, in_order=True)
    flat = [index for step in schedule.steps for batch in step for index in batch]
    total = round(1.5 * 137)
    assert flat == [number % 137 for number in range(total - total % shape.processes)]
    assert all(len(step) == shape.micro_batches for step in schedule.steps[:-1])
    assert len(schedule.steps[-1]) % shape.processes == 0


def test_pairs_in_order_keep_to_the_token_budget() -> None:
    schedule = Schedule(LENGTHS, Shape(16, accumulation=2, tokens=400), seed=0, epochs=2, in_order=True)
    batches = [batch for step in schedule.steps for batch in step]
    assert [index for batch in batches for index in batch] == [*range(137), *range(137)]
    assert max(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches) <= 400
    assert min(map(len, batches[:-1])) >= 400 // 90


def test_few_pairs_in_order_are_repeated() -> None:
    schedule = Schedule(LENGTHS[:3], Shape(2), seed=0, max_steps=4, in_order=True)
    assert schedule.steps == [[[0, 1]], [[2, 0]], [[1, 2]], [[0, 1]]]


# ---- passes over data that are smaller than a pool, or than a step


def test_a_pass_over_few_pairs_has_each_once() -> None:
    lengths = [10, 20, 30, 40, 50, 60]
    schedule = Schedule(lengths, Shape(3), seed=0, max_steps=4)
    assert sorted(map(sorted, (step[0] for step in schedule.steps[:2]))) == [[0, 1, 2], [3, 4, 5]]
    assert sorted(map(sorted, (step[0] for step in schedule.steps[2:]))) == [[0, 1, 2], [3, 4, 5]]
    assert all(sorted(step[0]) == list(range(8)) for step in Schedule([9] * 8, Shape(8), seed=0, max_steps=5).steps)


def test_the_steps_of_the_demo_are_what_they_were() -> None:
    rng = random.Random(7)
    lengths = [rng.randint(200, 700) for _ in range(7476)]
    schedule = Schedule(lengths, Shape(16), seed=0, max_steps=220)
    assert hashlib.sha256(repr(schedule.steps).encode()).hexdigest()[:16] == "0c0162b0cd1b3bba"


@pytest.mark.parametrize("seed", range(120))
def test_no_step_holds_a_pair_twice(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice([rng.randint(1, 12), rng.randint(1, 60), rng.randint(60, 200)])
    lengths = [rng.randint(20, 90) for _ in range(n)]
    shape = Shape(
        rng.choice([1, 2, 3, 8]), rng.choice([1, 1, 2, 4]), rng.choice([1, 1, 2, 3]), rng.choice([None, None, 100, 300])
    )
    groups = [rng.randrange(1 + n // 3) for _ in range(n)] if rng.random() < 0.4 else None
    passes = rng.choice([1, 2, 3])
    length: dict[str, Any] = {"epochs": passes} if rng.random() < 0.5 else {"max_steps": rng.randint(1, 30)}
    if n < shape.processes:
        return
    schedule = Schedule(lengths, shape, seed=seed, groups=groups, **length)
    visits = Counter[int]()
    for step in schedule.steps:
        held = Counter(index for batch in step for index in batch)
        counts = [held[index] for index in range(n)]
        assert max(counts) <= 1 or (sum(counts) > n and max(counts) - min(counts) <= 1)
        assert all(max(Counter(batch).values()) <= -(-len(batch) // n) for batch in step)
        visits.update(held)
        assert max(visits.values()) - min(visits[index] for index in range(n)) <= (2 if shape.tokens is None else 3)
    for step in schedule.steps[:-1]:
        assert len(step) == shape.micro_batches
        assert shape.tokens is not None or sum(map(len, step)) == shape.pairs
    if "epochs" in length:
        left_out = n * passes - visits.total()
        assert 0 <= left_out < shape.micro_batches and set(visits.values()) <= (
            {passes, passes - 1} if left_out else {passes}
        )


def test_groups_stay_together_over_several_passes_of_few() -> None:
    groups = [index // 4 for index in range(16)]
    schedule = Schedule([30] * 16, Shape(4, accumulation=8), seed=1, max_steps=3, groups=groups)
    assert all(len({groups[i] for i in batch}) == 1 for step in schedule.steps for batch in step)


def test_no_pair_is_left_over_pass_after_pass() -> None:
    lengths = [20] * 12 + [90] * 3
    schedule = Schedule(lengths, Shape(4, accumulation=2, tokens=180), seed=0, max_steps=30)
    visits = Counter(index for step in members(schedule) for index in step)
    assert max(visits.values()) - min(visits.values()) <= 2 and len(visits) == 15
