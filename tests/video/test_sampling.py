from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmpo.errors import UserError
from mmpo.video.sampling import BLACK, linspace, sample


def steady(n: int, fps: float = 30.0) -> list[float]:
    return [i / fps for i in range(n)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("linspace_trunc", [0, 1, 2, 3, 5, 6, 7, 9]),
        ("linspace_round", [0, 1, 3, 4, 5, 6, 8, 9]),
        ("segment_mid", [0, 1, 2, 3, 5, 6, 7, 8]),
    ],
)
def test_eight_of_ten(sampling: str, expected: list[int]) -> None:
    assert sample(steady(10), 8, sampling) == expected


@pytest.mark.parametrize("n", [1, 7, 8, 9, 10, 300])
@pytest.mark.parametrize("k", [1, 8])
def test_closed_forms(n: int, k: int) -> None:
    trunc = [0] if k == 1 else [int(i * (n - 1) / (k - 1)) for i in range(k)]
    assert sample(steady(n), k, "linspace_trunc") == trunc == [int(i) for i in np.linspace(0, n - 1, k, dtype=int)]
    segment = (n - 1) / k
    bounds = [int(np.round(segment * i)) for i in range(k + 1)]
    assert sample(steady(n), k, "segment_mid") == [(a + b) // 2 for a, b in itertools.pairwise(bounds)]


def test_one_frame_and_none() -> None:
    assert sample(steady(300), 1, "linspace_trunc") == [0]
    assert sample(steady(300), 1, "segment_mid") == [149]
    assert sample([], 8) == [] and linspace(0, 8) == []


@pytest.mark.parametrize(
    ("pad", "expected"),
    [
        ("repeat_last", [0, 0, 1, 1, 2]),
        ("none", [0, 1, 2]),
        ("loop", [0, 1, 2, 0, 1]),
        ("black", [0, 1, 2, BLACK, BLACK]),
    ],
)
def test_padding_of_three_frames(pad: str, expected: list[int]) -> None:
    assert sample(steady(3), 5, pad=pad) == expected  # type: ignore[arg-type]


def test_rate() -> None:
    assert sample(steady(300), sampling="fps:2", duration=10.0) == list(range(0, 300, 15))
    assert sample(steady(300), sampling="fps:2", duration=10.0, max_frames=5) == [0, 60, 135, 210, 285]
    assert sample(steady(10, fps=1.0), sampling="fps:4", duration=10.0) == list(range(10)), "no frame twice"


def test_time_based_choice_follows_the_clock_not_the_count() -> None:
    times = [0.0, 0.1, 0.2, 0.3, 10.0]  # four frames at once, then a long one
    assert sample(times, 3, "linspace_trunc") == [0, 2, 4]
    assert sample(times, 3, "time_linspace") == [0, 3, 4]


def test_windows_and_key_frames() -> None:
    assert sample(steady(300), 2, "first_seconds:1") == [0, 29]
    assert sample(steady(300), 2, start=5.0, end=6.0) == [150, 179]
    assert sample(steady(300), 2, "keyframes", keys=[0, 12, 24, 36]) == [0, 36]
    assert sample(steady(30), 2, start=5.0) == []


@pytest.mark.parametrize("bad", ["uniform", "fps", "fps:0", "fps:nan", "fps:-1", "first_seconds:x", "linspace_trunc:3"])
def test_unknown_names_are_refused(bad: str) -> None:
    with pytest.raises(UserError):
        sample(steady(3), 2, bad)


def test_random_inputs_give_existing_frames() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, k = int(rng.integers(1, 50)), int(rng.integers(1, 20))
        times = np.cumsum(rng.random(n))
        for name in ("linspace_trunc", "linspace_round", "segment_mid", "time_linspace", "fps:3"):
            picked = sample(times, k, name)
            assert picked == sorted(picked) and all(0 <= i < n for i in picked)
            assert len(picked) == k or name == "fps:3"
