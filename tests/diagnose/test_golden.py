"""The numbers of a diagnosis against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmpo.diagnose import displacement, drift, ranking
from mmpo.diagnose.streaming import Correlation, Histogram, Moments

LN3 = math.log(3)


def test_ranking_accuracy_takes_ties_as_right_and_lengths_into_account() -> None:
    chosen, rejected = np.array([-10.0, -12.0, -5.0]), np.array([-11.0, -10.0, -5.0])
    assert ranking.right(chosen, rejected).tolist() == [True, False, True]
    # -10 / 5 = -2 beats -9 / 3 = -3, though -10 < -9
    assert ranking.right(np.array([-10.0]), np.array([-9.0])).tolist() == [False]
    assert ranking.right(np.array([-10.0]), np.array([-9.0]), np.array([5]), np.array([3])).tolist() == [True]


@pytest.mark.parametrize(
    ("gap", "beta", "share", "right"),
    [
        (-10.0, 0.1, 0.75, True),  # -10 + 10 ln 3 = 0.986
        (-12.0, 0.1, 0.75, False),  # -12 + 10.986
        (-0.1, 10.0, 0.75, True),  # -0.1 + 0.1099
        (-0.12, 10.0, 0.75, False),
        (0.0, 0.1, 0.25, True),  # raters prefer the rejected one, and so does the optimum
        (11.0, 0.1, 0.25, False),  # 11 - 10.986 > 0
        (-69.0, 0.1, 1.0, True),  # clipped to 0.999: logit 6.9068
        (-69.1, 0.1, 1.0, False),
    ],
)
def test_the_best_that_a_reference_allows(gap: float, beta: float, share: float, right: bool) -> None:
    assert bool(ranking.idealized_right(np.array([gap]), beta, share)[0]) is right


def test_the_loss_at_which_a_pair_flips() -> None:
    # beta 0.1, reference gap -5: the threshold is softplus(-0.5) = ln(1 + e^-0.5) = 0.474077
    policy, reference = np.array([-1.0, 2.0, -0.0]), np.array([-5.0, -5.0, -5.0])
    found = ranking.flip_distance(policy, reference, 0.1)
    # softplus(-0.4) = 0.513015, softplus(-0.7) = 0.403186, and at a gap of 0 the loss is the threshold
    assert found == pytest.approx([0.038938, -0.070891, 0.0], abs=1e-6)
    rng = np.random.default_rng(0)
    policy, reference = rng.normal(0, 20, 500), rng.normal(0, 20, 500)
    assert ((ranking.flip_distance(policy, reference, 0.3) < 0) == (policy > 0)).all()


def test_flip_distances_of_huge_gaps_are_finite() -> None:
    found = ranking.flip_distance(np.array([3000.0, -3000.0]), np.array([-3000.0, 3000.0]), 10.0)
    assert found.tolist() == [0.0, 30000.0]  # softplus(60000) - softplus(30000)


def test_ches_masks_what_is_padding() -> None:
    garbage = [9.0, 9.0]
    chosen = np.array([[[1.0, 0.0], [0.0, 2.0]]])  # sum (1, 2), two tokens
    rejected = np.array([[[3.0, -1.0], garbage]])  # sum (3, -1), one token
    found = displacement.ches(
        displacement.summed(chosen, np.array([[True, True]])), displacement.summed(rejected, np.array([[True, False]])),
        np.array([2]), np.array([1]),
    )  # fmt: skip
    assert found.raw.tolist() == [-4.0]  # 3 - 2 - (1 + 4)
    assert found.normalized.tolist() == [-0.75]  # 1 / 2 - 5 / 4
    assert found.relative.tolist() == [-0.6]  # that over 5 / 4
    same = displacement.ches(np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]]), np.array([2]), np.array([2]))
    assert same.raw.tolist() == same.relative.tolist() == [0.0]


def test_gradients() -> None:
    # |dl/dpi_l| / |dl/dpi_w| = pi_w / pi_l = e^(W - L); of likelihood ratios |dl/dx_w| / |dl/dx_l| = x_l / x_w
    assert displacement.log_gradient_ratio(np.array([-1.0]), np.array([-3.0])).tolist() == [2.0]
    assert displacement.log_field_ratio(np.array([0.5]), np.array([-1.5])).tolist() == [-2.0]


def test_the_gradient_ratios_are_those_of_autograd() -> None:
    import torch

    pi = torch.tensor([0.3, 0.02], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.2, 0.05], dtype=torch.float64)
    loss = -torch.nn.functional.logsigmoid(0.1 * ((pi[0] / ref[0]).log() - (pi[1] / ref[1]).log()))
    loss.backward()
    assert pi.grad is not None
    by_pi = (pi.grad[1] / pi.grad[0]).abs().log().item()
    w, l_ = (np.array([pi[k].item()]) for k in (0, 1))
    assert displacement.log_gradient_ratio(np.log(w), np.log(l_))[0] == pytest.approx(by_pi)
    x = (pi.detach() / ref).requires_grad_()
    (-torch.nn.functional.logsigmoid(0.1 * (x[0].log() - x[1].log()))).backward()
    assert x.grad is not None
    by_x = (x.grad[0] / x.grad[1]).abs().log().item()
    a, b = (np.array([math.log(x[k].item())]) for k in (0, 1))
    assert displacement.log_field_ratio(a, b)[0] == pytest.approx(by_x)


def test_growth_of_what_is_neither() -> None:
    # ln(e^-1 + e^-2) = -0.686738; ln(2 e^-2) = -1.306853
    assert displacement.unseen_growth([-1.0, -2.0], [-2.0, -2.0]) == pytest.approx(0.620115, abs=1e-6)
    assert displacement.unseen_growth([-5000.0], [-5001.0]) == pytest.approx(1.0)


def test_divergence_on_own_samples() -> None:
    samples = [drift.ScoredSample(-2.0, -3.0, 2), drift.ScoredSample(-1.0, -4.0, 4)]
    found = drift.divergence(samples)
    assert found.nats == pytest.approx(2.0) and found.nats_per_token == pytest.approx(4 / 6)


def test_moments_come_out_whatever_the_parts() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    whole, parts = Moments(), Moments()
    whole.add(values)
    parts.add(values[:2])
    parts.add(values[2:])
    parts.add(np.array([np.nan]))  # a number that a pair lacks counts nowhere
    for found in (whole, parts):
        assert (found.count, found.mean) == (5, pytest.approx(4.0))
        assert found.deviation == pytest.approx(math.sqrt(12.5))  # (9 + 4 + 1 + 0 + 36) / 4
    assert Moments().mean is None and Moments().deviation is None


def test_correlation() -> None:
    found = Correlation()
    found.add(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    found.add(np.array([3.0, np.nan]), np.array([2.0, 5.0]))
    assert found.value == pytest.approx(0.5)  # deviations (-1, 0, 1) and (-1, 1, 0)
    constant = Correlation()
    constant.add(np.array([1.0, 2.0]), np.array([4.0, 4.0]))
    assert constant.value is None


def test_correlation_far_from_zero_is_as_exact() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 3000)
    y = x + rng.normal(0, 1, 3000)
    found = Correlation()
    for start in range(0, 3000, 100):
        found.add(x[start : start + 100] + 1e8, y[start : start + 100] - 1e8)
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_histogram_finds_quantiles_within_its_bins() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(0, 1, 20_000), rng.normal(-300, 40, 20_000), rng.exponential(1e-3, 20_000)):
        found = Histogram()
        for part in np.array_split(values, 7):
            found.add(part)
        for q in (0.05, 0.5, 0.95):
            exact = float(np.quantile(values, q))
            assert found.quantile(q) == pytest.approx(exact, rel=0.05, abs=0.01)
        assert found.counts.sum() == found.total == 20_000
    assert Histogram().quantile(0.5) is None


def test_histogram_counts_what_lies_outside_and_skips_what_is_none() -> None:
    found = Histogram()
    found.add(np.array([1e9, -1e9, np.nan, np.inf, 0.0]))
    assert found.total == 4 and found.counts.sum() == 4
    assert found.bars(-1, 1, 4) == [0, 0, 1, 0]
