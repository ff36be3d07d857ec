"""The rules of selection as numbers alone, on tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmpo.select.lengths import balanced, debiased_choice, shortest_allowed
from mmpo.select.margins import drawn_keys, fused, kept_number, probability, tail

# ---- dual margin (Less is More): clip to [M1, M2], P = (m - M1) / (M2 - M1), P1 P2 / (P1 P2 + (1 - P1)(1 - P2))


def test_a_margin_becomes_a_probability_by_clipping() -> None:
    found = probability(np.array([-5.0, -2.0, 0.0, 3.0, 8.0, 20.0]), low=-2.0, high=8.0)
    assert found.tolist() == [0.0, 0.0, 0.2, 0.5, 1.0, 1.0]


def test_two_sources_fuse() -> None:
    # 0.8 and 0.5: 0.4 / (0.4 + 0.1); 0.2 and 0.2: 0.04 / (0.04 + 0.64); 0.9 and 0.1: one half
    found = fused([np.array([0.8, 0.2, 0.9, 1.0, 0.0]), np.array([0.5, 0.2, 0.1, 0.3, 0.3])])
    assert found == pytest.approx([0.8, 0.04 / 0.68, 0.5, 1.0, 0.0])


def test_sure_and_sure_not_is_one_half() -> None:
    assert fused([np.array([1.0, 0.0]), np.array([0.0, 1.0])]).tolist() == [0.5, 0.5]


def test_three_sources_fuse_by_products() -> None:
    found = fused([np.array([0.6]), np.array([0.7]), np.array([0.2])])
    assert found == pytest.approx([0.6 * 0.7 * 0.2 / (0.6 * 0.7 * 0.2 + 0.4 * 0.3 * 0.8)])


def test_one_half_says_nothing() -> None:
    assert fused([np.array([0.3]), np.array([0.5])]) == pytest.approx([0.3])


def test_the_tail_begins_where_fewer_than_thirty_are_above() -> None:
    # 0, 0.01, …, 0.99: a dense tail, so that only the count of 30 matters. Above 0.70 are 0.71 … 0.99: 29.
    assert tail(np.arange(100) / 100, 30) == pytest.approx(0.70)


def test_the_tail_begins_earlier_where_margins_are_sparse() -> None:
    # 100 margins of 0 … 0.99, then 40 at 10, 20, …, 400. Above 10 are 39, fewer than 400 - 10; above 0.99 are 40, fewer
    # than 399.01; above 0.5 are 89, fewer than 399.5; above 0 are 139, still fewer than 400: all of it is tail.
    spread = np.concatenate([np.arange(100) / 100, np.arange(1, 41) * 10.0])
    assert tail(spread, 30) == 0.0
    # 1000 times 0 and 40 at 1 … 40: above 10 are 30, and 40 - 10 is 30, not more; above 11 are 29.
    assert tail(np.concatenate([np.zeros(1000), np.arange(1, 41)]), 30) == 11.0
    # 1000 times 0 and 39 at 2, 4, …, 78: above 18 are 30, fewer than 60; above 2 are 38 < 76; above 0 are 39 < 78.
    # Of 1000 times -1 more: above -1 are 1039, not fewer than 79.
    sparse = np.concatenate([np.full(1000, -1.0), np.zeros(1000), np.arange(1, 40) * 2.0])
    assert tail(sparse, 30) == 0.0


def test_the_tail_of_few_margins_is_the_greatest() -> None:
    assert tail(np.array([0.5, 3.0, -1.0]), 30) == 3.0


# ---- how many


@pytest.mark.parametrize(
    ("n", "keep", "kept"),
    [(1000, 0.1, 100), (10, 0.25, 2), (3, 0.1, 1), (0, 0.5, 0), (7, 1.0, 7), (10, 4, 4), (3, 9, 3)],
)
def test_a_share_or_a_number_is_kept(n: int, keep: float, kept: int) -> None:
    assert kept_number(n, keep) == kept


def test_shares_are_not_lost_to_rounding() -> None:
    assert [kept_number(100, hundredth / 100) for hundredth in range(1, 101)] == list(range(1, 101))


# ---- beta-DPO: drawn without replacement, weights exp(-((D - M) / S)^2 / 2)


def test_a_draw_prefers_what_is_near_the_mean() -> None:
    gaps = np.concatenate([np.linspace(-1, 1, 100), [30.0, -30.0]])
    for seed in range(20):
        keys = drawn_keys(gaps, np.random.default_rng(seed))
        assert not {100, 101} & set(np.argsort(-keys)[:50].tolist())


def test_a_draw_follows_the_weights() -> None:
    # -1, 0, 0, 1: S is the unbiased sqrt(2/3), so the weights are w = exp(-0.75) = 0.4724, 1, 1, w.
    weight = math.exp(-0.75)
    first = [int(np.argmax(drawn_keys(np.array([-1.0, 0, 0, 1]), np.random.default_rng(s)))) for s in range(4000)]
    for place, share in enumerate([weight, 1, 1, weight]):
        assert first.count(place) / 4000 == pytest.approx(share / (2 + 2 * weight), abs=0.025)


def test_equal_gaps_are_drawn_evenly() -> None:
    first = [int(np.argmax(drawn_keys(np.zeros(4), np.random.default_rng(s)))) for s in range(2000)]
    assert all(abs(first.count(place) / 2000 - 0.25) < 0.04 for place in range(4))


# ---- lengths


def test_rlaif_v_takes_the_first_threshold_of_least_imbalance() -> None:
    """Chosen words 40, 30, 45, 60, 50, 20 against 50 each: r = 0.20, kept 40, 45, 60, 50, imbalance 0.025."""
    chosen, rejected = np.array([40.0, 30, 45, 60, 50, 20]), np.full(6, 50.0)
    threshold, kept = shortest_allowed(chosen, rejected)
    assert threshold == pytest.approx(0.20)
    assert chosen[kept].tolist() == [40, 45, 60, 50]


def test_rlaif_v_never_drops_a_longer_chosen_side() -> None:
    _, kept = shortest_allowed(np.array([90.0, 10.0]), np.array([50.0, 50.0]))
    assert kept[0]


def test_a_balanced_set_is_left_alone() -> None:
    assert balanced(np.array([50.0, 51]), np.array([50.0, 50]), 0.02).all()


def test_the_heavier_side_loses_its_largest_differences_first() -> None:
    # differences +30, +10, +1, -2, 0; mean rejected 50. All: 39/5 = 7.8 (0.156). Without +30: 9/4 = 2.25 (0.045).
    # Without +10 too: -1/3 = -0.33 (0.0067).
    rejected = np.full(5, 50.0)
    kept = balanced(rejected + np.array([30.0, 10, 1, -2, 0]), rejected, 0.02)
    assert kept.tolist() == [False, False, True, True, True]


def test_the_shorter_side_may_be_the_heavier_one() -> None:
    rejected = np.full(4, 100.0)
    kept = balanced(rejected - np.array([40.0, 2, 1, 0]), rejected, 0.02)
    assert kept.tolist() == [False, True, True, True]


def test_the_other_side_loses_where_the_first_went_too_far() -> None:
    # +10 and -4 of 50: +3/50; without +10: -4/50; without both nothing is left.
    assert balanced(np.array([60.0, 46.0]), np.array([50.0, 50.0]), 0.02).tolist() == [False, False]


def test_equal_differences_go_one_at_a_time_from_the_front() -> None:
    # +3 four times and 0: 12/5/50 = 0.048; 9/4/50 = 0.045; 6/3/50 = 0.04; 3/2/50 = 0.03; 0.
    rejected = np.full(5, 50.0)
    assert balanced(rejected + np.array([3.0, 3, 0, 3, 3]), rejected, 0.045).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_balanced_or_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    rejected = random.integers(20, 60, 300).astype(float)
    chosen = rejected + random.normal(8, 10, 300).round()
    kept = balanced(chosen, rejected, 0.02)
    assert kept.sum() > 100
    assert abs(chosen[kept].mean() - rejected[kept].mean()) / rejected[kept].mean() <= 0.02


def test_debiasing_prefers_the_pair_that_is_not_ahead_by_length() -> None:
    """Two prompts of two pairs. Margin 10 with 20 characters more, margin 9 with 2 fewer: at alpha 0 the long ones are
    chosen (mean difference 20). 10 - 20 a < 9 + 2 a from a = 1/22 on, so at 0.046 the others are (|-2|)."""
    margins, characters = np.array([10.0, 9, 10, 9]), np.array([20.0, -2, 20, -2])
    alpha, best = debiased_choice(margins, characters, np.array([0, 0, 1, 1]))
    assert alpha == pytest.approx(0.046)
    assert best.tolist() == [False, True, False, True]


def test_debiasing_stops_at_the_first_minimum() -> None:
    """One prompt, three pairs: 5 longer, 3 longer, 40 shorter. At alpha 0 the first; the second from 0.001 on (the
    first minimum, |3|); the third would come at the end, and |-40| ends the search."""
    alpha, best = debiased_choice(np.array([1.001, 1.0, 0.0]), np.array([5.0, 3, -40]), np.array([7, 7, 7]))
    assert alpha == pytest.approx(0.001)
    assert best.tolist() == [False, True, False]


def test_a_prompt_with_one_pair_keeps_it() -> None:
    alpha, best = debiased_choice(np.array([-3.0, 2.0]), np.array([4.0, 1.0]), np.array([0, 1]))
    assert alpha == 0
    assert best.tolist() == [True, True]
