"""Intervals and tests, against closed forms, published examples and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from mmpo import statistics
from mmpo.statistics import (
    bootstrap_interval,
    mcnemar,
    paired_difference,
    percentile_interval,
    ratio,
    resampled_sums,
    wilson,
)


def share(counts: np.ndarray) -> np.ndarray:
    return ratio(counts[..., 0], counts[..., 1])


def test_wilson_is_the_closed_form() -> None:
    interval = wilson(8, 10)
    z = 1.959963984540054
    centre = (0.8 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert interval.method == "wilson"


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.2775), (10, 0.7225, 1.0)])
def test_wilson_is_not_empty_at_the_ends(successes: int, low: float, high: float) -> None:
    interval = wilson(successes, 10)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="wilson needs"):
        wilson(successes, trials)


def test_ratio_is_zero_where_nothing_divides() -> None:
    assert ratio(np.array([1, 1]), np.array([2, 0])).tolist() == [0.5, 0.0]


def test_resamples_draw_whole_images() -> None:
    sums = resampled_sums(np.array([[1, 10], [1, 1000], [1, 100_000]]), samples=200, seed=3)
    assert (sums[:, 0] == 3).all()
    digits = sums[:, 1]
    times = np.stack([digits // 100_000, digits % 100_000 // 1000, digits % 1000 // 10])
    assert (times.sum(0) == 3).all()
    assert len({tuple(column) for column in times.T}) == 10  # all ways to draw 3 of 3 with replacement


def test_resamples_depend_on_the_seed_only() -> None:
    counts = np.arange(40).reshape(20, 2)
    first, again = (resampled_sums(counts, samples=50, seed=1) for _ in range(2))
    assert (first == again).all()
    assert (first != resampled_sums(counts, samples=50, seed=2)).any()
    assert (resampled_sums(counts[:, :1], samples=50, seed=1) == first[:, :1]).all()


def test_resamples_of_many_images_come_in_blocks_that_do_not_repeat() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (5000, 3))
    sums = resampled_sums(counts, samples=450, seed=0)  # more than two blocks
    assert np.allclose(sums.mean(0), counts.sum(0), rtol=0.01)
    assert len(np.unique(sums, axis=0)) == 450


def test_resampling_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        resampled_sums(np.zeros((0, 2)), samples=10, seed=0)


def test_bootstrap_of_independent_trials_is_near_wilson() -> None:
    right = np.random.default_rng(0).random(400) < 0.3
    counts = np.stack([right, np.ones(400)], axis=1)
    boot, closed = bootstrap_interval(counts, share, samples=4000, seed=0), wilson(int(right.sum()), 400)
    assert (boot.low, boot.high) == pytest.approx((closed.low, closed.high), abs=0.008)
    assert boot.method == "bootstrap"


def test_clusters_widen_the_interval_as_they_should() -> None:
    """Nine identical answers an image carry the information of one: the interval must not shrink with the copies."""
    right = (np.random.default_rng(1).random(200) < 0.5).astype(int)
    once = bootstrap_interval(np.stack([right, np.ones(200)], 1), share, samples=2000, seed=0)
    nine = bootstrap_interval(9 * np.stack([right, np.ones(200)], 1), share, samples=2000, seed=0)
    assert (nine.low, nine.high) == pytest.approx((once.low, once.high), abs=1e-12)


@pytest.mark.parametrize("value", [0, 1])
def test_no_certainty_from_a_sample_without_variation(value: int) -> None:
    counts = np.stack([np.full(50, value), np.ones(50)], 1)
    interval = bootstrap_interval(counts, share, samples=200, seed=0)
    assert interval == wilson(50 * value, 50)
    assert interval.high - interval.low > 0.05


def test_the_ends_of_other_scales() -> None:
    """Scores of 0 to 6 that are all 6 (or 0) are no certainty either; a mean that happens to be 1 is no full score."""
    wide, full = wilson(50, 50), percentile_interval(np.full(200, 6.0), images=50, highest=6.0)
    assert (full.low, full.high) == pytest.approx((6 * wide.low, 6.0)) and full.low < 6
    assert percentile_interval(np.zeros(200), images=50, highest=6.0).high == pytest.approx(6 * wilson(0, 50).high)
    mean = percentile_interval(np.ones(200), images=50, highest=None)
    assert (mean.low, mean.high, mean.method) == (1.0, 1.0, "bootstrap")


def test_coverage_of_the_clustered_interval() -> None:
    """Of 100 simulated evaluations with clustered answers about 95% of the intervals hold the true rate; independent
    trials would not.
    """
    rng = np.random.default_rng(5)
    held = naive = 0
    for repetition in range(100):
        easy = rng.beta(1, 1, 60)  # true mean one half, strongly clustered
        counts = np.stack([rng.binomial(6, easy), np.full(60, 6)], 1)
        interval = bootstrap_interval(counts, share, samples=400, seed=repetition)
        held += interval.low <= 0.5 <= interval.high
        closed = wilson(int(counts[:, 0].sum()), 360)
        naive += closed.low <= 0.5 <= closed.high
    assert 89 <= held <= 99
    assert naive < 85


def test_paired_difference_sees_what_unpaired_numbers_hide() -> None:
    rng = np.random.default_rng(2)
    level = rng.integers(0, 100, 100)
    before = np.stack([level, np.full(100, 200)], 1)
    after = before + np.array([2, 0])
    found = paired_difference(before, after, share, samples=2000, seed=0)
    assert found.value == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01), abs=1e-9)
    assert found.p == pytest.approx(2 / 2001)
    assert found.detectable is None  # every image changed by the same amount: the resamples say nothing about chance


def test_no_difference_has_a_large_p_and_says_what_was_detectable() -> None:
    rng = np.random.default_rng(3)
    before, after = (np.stack([rng.binomial(6, 0.6, 1500), np.full(1500, 6)], 1) for _ in range(2))
    found = paired_difference(before, after, share, samples=1000, seed=0)
    assert found.p > 0.05
    assert found.low < 0 < found.high
    error = np.sqrt(2 * 0.6 * 0.4 / 9000)
    assert found.detectable == pytest.approx(2.8016 * error, rel=0.08)


def test_identical_answers_have_p_one() -> None:
    counts = np.stack([np.arange(10), np.full(10, 10)], 1)
    found = paired_difference(counts, counts, share, samples=100, seed=0)
    assert (found.value, found.low, found.high, found.p, found.detectable) == (0, 0, 0, 1, None)


def test_paired_counts_need_one_shape() -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(np.ones((3, 2)), np.ones((4, 2)), share, samples=10, seed=0)


def test_paired_p_values_are_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(7)
    small = 0
    for repetition in range(100):
        before, after = (np.stack([rng.binomial(6, 0.5, 60), np.full(60, 6)], 1) for _ in range(2))
        small += paired_difference(before, after, share, samples=400, seed=repetition).p < 0.05
    assert 1 <= small <= 12


def test_mcnemar_is_the_exact_binomial_test() -> None:
    before = [True] * 60 + [False] * 12 + [True] * 2 + [False] * 26
    after = [True] * 60 + [True] * 12 + [False] * 2 + [False] * 26
    found = mcnemar(before, after)
    assert (found.fixed, found.broken) == (12, 2)
    assert found.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)


def test_mcnemar_without_changes() -> None:
    assert mcnemar([True, False], [True, False]).p == 1.0


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        mcnemar([True], [])


def test_minimum_detectable_difference() -> None:
    assert statistics.minimum_detectable_difference(0.01) == pytest.approx(0.02801585, abs=1e-7)
    assert statistics.minimum_detectable_difference(0.01, power=0.9) > statistics.minimum_detectable_difference(0.01)


def test_auroc_is_scikit_learns_with_weights_and_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 60) / 8
    positive = rng.random(60) < 0.2 + 0.5 * scores
    assert float(statistics.auroc(scores, positive)) == pytest.approx(roc_auc_score(positive, scores))
    weights = rng.integers(0, 4, (5, 60))
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert statistics.auroc(scores, positive, weights) == pytest.approx(expected)
    assert float(statistics.auroc(scores, np.zeros(60, bool))) == 0.5


def test_auroc_is_resampled_by_image() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    scores, positive, image_of = rng.random(40), rng.random(40) < 0.5, np.arange(40) // 4
    values = statistics.resampled_auroc(scores, positive, image_of, 10, samples=50, seed=3)
    ((_, times),) = statistics.resamples(10, samples=50, seed=3)
    assert values[:3] == pytest.approx(
        [roc_auc_score(positive, scores, sample_weight=times[i][image_of]) for i in range(3)]
    )
    # A model that is sure and right has an AUROC of 1 in every resample, whatever its threshold would say.
    sure = statistics.resampled_auroc(positive * 0.1 + 0.9, positive, image_of, 10, samples=50, seed=3)
    assert set(sure) <= {1.0, 0.5}


def test_benjamini_hochberg_by_hand() -> None:
    assert statistics.benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert statistics.benjamini_hochberg([]) == []
