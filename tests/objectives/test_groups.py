"""Losses of groups of responses and of reference samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps
from tests.objectives.making import LOG2, response, softplus, value

BETA = 0.4


def grouped(ratios: list[float], scores: list[float], group: list[int]) -> PairLogps:
    """Responses of one token with these log-ratios, beside a pair that nobody reads."""
    policy = torch.tensor(ratios, dtype=torch.float64)[:, None]
    rows = ResponseLogps(policy, torch.zeros_like(policy), torch.ones_like(policy, dtype=torch.bool))
    unread = response([-1.0])
    return PairLogps(
        unread, unread, groups=ResponseGroups(rows, torch.tensor(group), torch.tensor(scores, dtype=torch.float64))
    )


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


RATIOS, SCORES = [0.5, -1.0, 2.0, 0.25, -0.75], [1.0, 0.0, 2.0, 0.3, 0.9]
GROUPS = {0: [0, 2, 4], 1: [1, 3]}


def test_values_of_two_groups_by_hand() -> None:
    pairs = grouped(RATIOS, SCORES, [0, 1, 0, 1, 0])
    nca, infonca = [], []
    for members in GROUPS.values():
        labels = softmax([SCORES[k] / 0.7 for k in members])
        rewards = [BETA * RATIOS[k] for k in members]
        mean = sum(softplus(r) for r in rewards) / len(rewards)
        nca.append(sum(q * softplus(-r) for q, r in zip(labels, rewards, strict=True)) + mean)
        infonca.append(-sum(q * math.log(p) for q, p in zip(labels, softmax(rewards), strict=True)))
    for name, expected in (("nca", nca), ("infonca", infonca)):
        term = build_objective({name: {"beta": BETA, "temperature": 0.7}}).terms(pairs)[name][1]
        assert term.values.tolist() == pytest.approx(expected, rel=1e-12)
        assert term.mean.item() == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_a_sharp_label_of_two_is_dpo_and_nca_pair() -> None:
    pair = PairLogps(response([0.7]), response([-0.9]))
    pairs = grouped([0.7, -0.9], [1.0, 0.0], [0, 0])
    assert value("infonca", pairs, beta=BETA) == pytest.approx(value("dpo", pair, beta=BETA), rel=1e-12)
    assert value("nca", pairs, beta=BETA) == pytest.approx(value("nca_pair", pair, beta=BETA), rel=1e-12)


def test_equal_scores_stay_equal_and_the_order_does_not_matter() -> None:
    one = value("infonca", grouped([0.7, -0.9, 0.1], [1.0, 1.0, 0.0], [0, 0, 0]), beta=BETA)
    other = value("infonca", grouped([-0.9, 0.1, 0.7], [1.0, 0.0, 1.0], [0, 0, 0]), beta=BETA)
    assert one == pytest.approx(other, rel=1e-12)


def test_values_of_groups_at_the_start() -> None:
    pairs = grouped([0.0, 0.0, 0.0], [0.3, 0.2, 0.1], [0, 0, 0])
    assert value("nca", pairs) == pytest.approx(2 * LOG2)
    assert value("infonca", pairs) == pytest.approx(math.log(3))


@pytest.mark.parametrize("name", ["nca", "infonca"])
def test_groups_must_be_there_and_scored(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} reads groups of scored responses, and the batch has none"):
        value(name, PairLogps(response([-1.0]), response([-1.0])))
    with pytest.raises(UserError, match=rf"{name} reads a score of every response .* 1 of 2 have none \(NaN\)"):
        value(name, grouped([0.1, 0.2], [0.5, math.nan], [0, 0]))
    with pytest.raises(UserError, match=f"{name}.temperature must be greater than 0"):
        build_objective({name: {"temperature": 0}})


@pytest.mark.parametrize("name", ["nca", "infonca"])
def test_groups_are_finite_far_out_in_float32(name: str) -> None:
    policy = torch.tensor([[3000.0], [-3000.0]], requires_grad=True)
    rows = ResponseLogps(policy, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))
    pairs = PairLogps(
        response([-1.0]), response([-1.0]), groups=ResponseGroups(rows, torch.zeros(2).long(), torch.tensor([0.0, 1]))
    )
    loss = build_objective({name: {"beta": 1.0}}).loss(pairs)
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.isfinite() and slope.isfinite().all()


def sampled(of: list[int]) -> PairLogps:
    """Two pairs and three samples with log-probs -1, -3 and -4, padded."""
    chosen, rejected = (
        ResponseLogps(
            torch.tensor(rows, dtype=torch.float64), None, torch.tensor([[True, True, False], [True, False, False]])
        )
        for rows in ([[-1.0, -0.5, 0], [-2.0, 0, 0]], [[-1.0, -2.0, 0], [-1.0, 0, 0]])
    )
    samples = torch.tensor([[-0.5, -0.5], [-3.0, 0], [-1.5, -2.5]], dtype=torch.float64)[: len(of)]
    return PairLogps(chosen, rejected, samples=ResponseLogps(samples, None, samples != 0), samples_of=torch.tensor(of))


def test_typo_by_hand() -> None:
    expected = [softplus(-1.5) - 0.3 * (-1 - 4) / 2, softplus(1.0) - 0.3 * -3]
    term = build_objective({"typo": {"lam": 0.3}}).terms(sampled([0, 1, 0]))["typo"][1]
    assert term.values.tolist() == pytest.approx(expected, rel=1e-12)


def test_typo_needs_samples_of_every_prompt() -> None:
    pairs = sampled([0, 0])
    with pytest.raises(UserError, match="typo reads samples of the reference, and 1 of 2 pairs of a batch have none"):
        value("typo", pairs, lam=0.1)
    pairs.samples = None
    with pytest.raises(UserError, match="typo reads samples of the reference, and the batch has none"):
        value("typo", pairs, lam=0.1)
