"""Losses of a whole step, KTO and sorted quantiles, and those of one side: by hand, in every branch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.batchwise import MISMATCHED
from mmpo.types import PairLogps, ResponseLogps, StepStatistics
from tests.objectives.making import LOG2, softplus, value

A, B = [1.5, -0.5, 0.2], [-0.5, 0.75, -1.25]


def rows(ratios: list[float]) -> ResponseLogps:
    """Responses of one token with these log-ratios."""
    policy = torch.tensor(ratios, dtype=torch.float64)[:, None]
    return ResponseLogps(policy.requires_grad_(), torch.zeros_like(policy), torch.ones_like(policy, dtype=torch.bool))


def pairs(mismatched: list[float] | None = None) -> PairLogps:
    return PairLogps(rows(A), rows(B), {} if mismatched is None else {MISMATCHED: rows(mismatched)})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def kto(z0: float, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> float:
    both = [desirable * sigmoid(-beta * (a - z0)) for a in A] + [undesirable * sigmoid(-beta * (z0 - b)) for b in B]
    return sum(both) / 6


@pytest.mark.parametrize("mismatched", [[0.5], [0.1, 0.4, 1.0], [2.0, 2.0, -1.0, 0.5, -1.0]])
def test_kto_takes_z0_from_any_number_of_mismatched_rows(mismatched: list[float]) -> None:
    given = {"beta": 0.4, "desirable": 1.33, "undesirable": 0.5}
    expected = kto(sum(mismatched) / len(mismatched), **given)
    assert value("kto", pairs(mismatched), **given) == pytest.approx(expected, rel=1e-12)


def test_z0_of_kto_is_at_least_0_or_the_number_given() -> None:
    assert value("kto", pairs([-1.0, -2.0, 0.5])) == pytest.approx(kto(0), rel=1e-12)
    assert value("kto", pairs(), z0=0.3) == pytest.approx(kto(0.3), rel=1e-12)
    assert value("kto", pairs(), z0=-0.3) == pytest.approx(kto(-0.3), rel=1e-12)
    assert value("kto", pairs(), z0=0) == pytest.approx(kto(0), rel=1e-12)


def test_kto_asks_for_mismatched_rows_only_to_estimate() -> None:
    assert build_objective("kto").views == (MISMATCHED,) and build_objective("kto").reads_step
    number = build_objective({"kto": {"z0": 0.3}})
    assert number.views == () and not number.reads_step
    with pytest.raises(UserError, match="mismatched"):
        value("kto", pairs())
    with pytest.raises(UserError, match="kto estimates z0 from mismatched rows, and a step has none"):
        value("kto", pairs([]))
    with pytest.raises(UserError, match=r"kto.z0 must be a number or must be estimated \(it is 'mean'\)"):
        build_objective({"kto": {"z0": "mean"}})


def test_kto_at_the_start_and_without_gradient_through_z0() -> None:
    same = PairLogps(rows([0.0, 0.0]), rows([0.0, 0.0]), {MISMATCHED: rows([0.0, 0.0])})
    assert value("kto", same) == pytest.approx(0.5)
    given = pairs([1.0, 2.0, 3.0])
    build_objective("kto").loss(given).backward()
    assert given.views[MISMATCHED].policy.grad is None and given.chosen.policy.grad is not None


def ordered(gaps: list[float], beta: float, eps: float) -> list[float]:
    return [(1 - eps) * softplus(-beta * gap) + eps * softplus(beta * gap) for gap in gaps]


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_aot_smooths_the_gaps_of_sorted_quantiles(eps: float) -> None:
    given = pairs()
    given.chosen.reference = torch.tensor([[-2.0], [0.0], [1.0]]).double()
    given.rejected.reference = torch.tensor([[0.0], [-1.0], [0.5]]).double()
    # W - L = 2, -1.25, 1.45 and Wr - Lr = -2, 1, 0.5; a = 3.5, -0.5, -0.8 and b = -0.5, 1.75, -1.75
    paired = [-1.25 + 2, 1.45 - 0.5, 2 - 1]
    unpaired = [-0.8 + 1.75, -0.5 + 0.5, 3.5 - 1.75]
    for flag, gaps in ((True, paired), (False, unpaired)):
        expected = sum(ordered(gaps, 0.3, eps)) / 3
        objective = build_objective({"aot": {"beta": 0.3, "paired": flag, "eps": eps}})
        assert objective.loss(given).item() == pytest.approx(expected, rel=1e-12)
        values = objective.statistics(given)
        parts = [slice(0, 1), slice(1, 3)]
        total = 0.0
        for cut in parts:
            chosen, rejected = (
                ResponseLogps(side.policy[cut], side.reference[cut], side.mask[cut])
                for side in (given.chosen, given.rejected)
                if side.reference is not None
            )
            piece = PairLogps(
                chosen,
                rejected,
                step=StepStatistics(values, cut, {"aot": {}}),
            )
            total += objective.terms(piece)["aot"][1].values.sum().item()
        assert total / 3 == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match=r"aot.eps must be less than 0.5"):
        build_objective({"aot": {"eps": 0.5}})


# ---- of one side


@pytest.mark.parametrize("calibration", [0.0, 0.5, 1.0])
def test_cal_dpo_by_hand(calibration: float) -> None:
    expected = [softplus(b - a) + calibration * ((a - 5) ** 2 + (b + 5) ** 2) for a, b in zip(A, B, strict=True)]
    assert value("cal_dpo", pairs(), beta=0.1, calibration=calibration) == pytest.approx(sum(expected) / 3, rel=1e-12)
    same = PairLogps(rows([0.0]), rows([0.0]))
    assert value("cal_dpo", same, calibration=calibration) == pytest.approx(LOG2 + calibration * 0.5e6)


@pytest.mark.parametrize(
    ("given", "progress", "lam"),
    [
        ({}, 0.3, 0.75),
        ({"schedule": "fixed", "lam": 0.9}, 0.3, 0.9),
        ({"schedule": "increase"}, 0.0, 0.5),
        ({"schedule": "increase"}, 0.3, 0.65),
        ({"schedule": "increase", "lam_min": 0.2, "lam_max": 0.6}, 1.0, 0.6),
        ({"schedule": "decrease"}, 0.0, 1.0),
        ({"schedule": "decrease", "lam_min": 0.2, "lam_max": 0.6}, 0.25, 0.5),
        ({"lam": {"from": 1.0, "to": 0.5}}, 0.5, 0.75),
    ],
)
def test_dpo_shift_moves_lam_over_the_run(given: dict[str, Any], progress: float, lam: float) -> None:
    run = pairs()
    run.progress = progress
    expected = sum(softplus(-0.2 * (a - lam * b)) for a, b in zip(A, B, strict=True)) / 3
    assert value("dpo_shift", run, beta=0.2, **given) == pytest.approx(expected, rel=1e-12)


def test_dpo_shift_refuses_a_turned_range() -> None:
    with pytest.raises(UserError, match=r"dpo_shift.lam_min must not be above lam_max \(they are 0.9 and 0.6\)"):
        build_objective({"dpo_shift": {"schedule": "increase", "lam_min": 0.9, "lam_max": 0.6}})
    build_objective({"dpo_shift": {"lam_min": 0.9, "lam_max": 0.6}})  # not read
    with pytest.raises(UserError, match=r"dpo_shift.lam_min must be greater than 0"):
        build_objective({"dpo_shift": {"lam_min": 0}})


def test_slic_by_hand() -> None:
    expected = [max(0, 0.5 - a + b) - 0.2 * a for a, b in zip(A, B, strict=True)]
    assert value("slic", pairs(), delta=0.5, lam=0.2) == pytest.approx(sum(expected) / 3, rel=1e-12)


@pytest.mark.parametrize("name", ["kto", "aot", "cal_dpo", "dpo_shift"])
@pytest.mark.parametrize("margin", [3000.0, -3000.0])
def test_finite_far_out_in_float32(name: str, margin: float) -> None:
    policy = torch.tensor([[margin]], requires_grad=True)
    here, zeros = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
    given = PairLogps(
        ResponseLogps(policy, zeros, here),
        ResponseLogps(-policy, zeros, here),
        {MISMATCHED: ResponseLogps(policy, zeros, here)},
    )
    loss = build_objective(name).loss(given)
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.dtype == torch.float32 and loss.isfinite() and slope.isfinite().all()
