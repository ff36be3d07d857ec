"""Losses that read scores: values by hand of every branch, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import spec_mistakes
from mmpo.types import PairLogps
from tests.objectives.making import LOG2, response, softplus, value

A, B = 1.5, -0.5  # log-ratios of chosen and rejected in `pair`
D = A - B


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair(chosen: float = 0.8, rejected: float = 0.2, **more: float) -> PairLogps:
    """One pair with a = 1.5 and b = -0.5, padded."""
    scores = {"chosen": chosen, "rejected": rejected, **more}
    return PairLogps(
        response([-0.5, -1.0], [-2.0, -1.0], pad=1),
        response([-1.5, -0.5, -1.0], [-1.0, -0.5, -1.0], pad=2),
        scores={name: torch.tensor([score], dtype=torch.float64) for name, score in scores.items()},
    )


def at_start(chosen: float, rejected: float, **more: float) -> PairLogps:
    """Policy and reference are the same."""
    both = response([-0.5, -1.0], [-0.5, -1.0])
    scores = {"chosen": chosen, "rejected": rejected, **more}
    return PairLogps(
        both, both, scores={name: torch.tensor([score], dtype=torch.float64) for name, score in scores.items()}
    )


@pytest.mark.parametrize(
    ("name", "given", "scores", "expected"),
    [
        ("odpo", {}, (0.8, 0.2), softplus(math.log(0.6) - 0.5 * D)),
        ("odpo", {"alpha": 0.5, "beta": 0.3}, (5.0, 1.0), softplus(0.5 * math.log(4) - 0.3 * D)),
        ("odpo", {"offset": "ratio"}, (0.8, 0.2), softplus(math.log(4) - 0.5 * D)),
        ("odpo", {"offset": "linear", "alpha": 2.0}, (-0.2, -0.8), softplus(2 * 0.6 - 0.5 * D)),
        ("mappo", {}, (0.8, 0.2), softplus(-0.1 * (A - 0.6 * B))),
        ("mappo", {}, (0.3, 0.3), softplus(-0.1 * A)),
        ("mappo", {}, (1.0, 0.0), softplus(-0.1 * D)),
        ("da_dpo", {}, (0.8, 0.2), softplus(-0.1 * 1.6 * D)),
        ("da_dpo", {"gamma": 0.5, "beta": 0.2}, (0.2, 0.8), softplus(-0.1 * 1.6 * D)),
        ("sppo", {"beta": 0.1}, (0.8, 0.2), (A - 3) ** 2 + (B + 3) ** 2),
        ("sppo", {}, (1.0, 0.0), (A - 500) ** 2 + (B + 500) ** 2),
        (
            "una_mse",
            {"beta": 0.5},
            (0.8, 0.2),
            ((sigmoid(0.75) - 0.8) ** 2 + (sigmoid(-0.25) - 0.2) ** 2) / 2,
        ),
        ("uft", {"beta": 0.5}, (0.8, 0.2), ((sigmoid(0.75) - 0.8) ** 2 + (sigmoid(-0.25) - 0.2) ** 2) / 2),
        ("uft", {"beta": 0.5}, (math.nan, 0.2), ((sigmoid(0.75) - 1) ** 2 + (sigmoid(-0.25) - 0.2) ** 2) / 2),
        ("uft", {"beta": 0.5}, (0.8, math.nan), (sigmoid(0.75) - 0.8) ** 2),
        ("uft", {}, (math.nan, math.nan), (sigmoid(0.015) - 1) ** 2),
    ],
)
def test_values_by_hand(name: str, given: dict[str, Any], scores: tuple[float, float], expected: float) -> None:
    assert value(name, pair(*scores), **given) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("similarity", [1.0, 0.25, 0.0, -1.0])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_the_weight_of_sem_dpo(similarity: float, alpha: float) -> None:
    expected = math.exp(-alpha * (1 - similarity)) * softplus(-0.3 * D)
    assert value("sem_dpo", pair(similarity=similarity), alpha=alpha, beta=0.3) == pytest.approx(expected, rel=1e-12)


def madpo_weight(h: float, c_min: float, c_max: float, lam: float, tau: float) -> float:
    c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) * math.exp(lam * (abs(h) - tau)))
    return sigmoid(c * h) / sigmoid(h) if h > -tau else 1.0


@pytest.mark.parametrize("gap", [6.0, 1.0, 0.0, -0.5, -1.9, -2.5])
@pytest.mark.parametrize(
    "given", [{}, {"c_min": 0.25, "c_max": 4.0, "lam": 0.5, "tau": 1.0}, {"reward_scale": 0.5, "beta": 0.2}]
)
def test_the_weight_of_madpo(gap: float, given: dict[str, float]) -> None:
    full = {"c_min": 0.5, "c_max": 2.0, "lam": 1.0, "tau": 2.0, **given}
    h = gap * full.pop("reward_scale", 1.0)
    z = full.pop("beta", 0.1) * D
    assert value("madpo", pair(gap, 0.0), **given) == pytest.approx(madpo_weight(h, **full) * softplus(-z), rel=1e-12)


def test_madpo_weighs_hard_pairs_more_and_is_dpo_at_tau() -> None:
    dpo = value("dpo", pair())
    assert value("madpo", pair(2.0, 0.0)) == pytest.approx(dpo, rel=1e-12)
    assert value("madpo", pair(0.5, 0.0)) > dpo > value("madpo", pair(5.0, 0.0))


def test_values_at_the_start() -> None:
    assert value("sppo", at_start(1, 0)) == pytest.approx(0.5 / 0.001**2)
    assert value("una_mse", at_start(0.9, 0.2)) == pytest.approx((0.4**2 + 0.3**2) / 2)
    assert value("odpo", at_start(0.9, 0.2)) == pytest.approx(softplus(math.log(0.7)))
    for name in ("mappo", "da_dpo"):
        assert value(name, at_start(0.9, 0.2)) == pytest.approx(LOG2)
    assert value("sem_dpo", at_start(0.9, 0.2, similarity=1), alpha=3.0) == pytest.approx(LOG2)
    assert value("madpo", at_start(2, 0)) == pytest.approx(LOG2)


def test_full_win_rates_are_sppo_hard_and_full_gaps_dpo() -> None:
    assert value("sppo", pair(1, 0)) == pytest.approx(value("sppo_hard", pair()))
    assert value("mappo", pair(1, 0)) == pytest.approx(value("dpo", pair()))
    assert value("odpo", pair(1, 0), beta=0.1) == pytest.approx(value("dpo", pair()))
    assert value("da_dpo", pair(0.5, 0.5)) == pytest.approx(value("dpo", pair()))


SCORED = [name for name, entry in OBJECTIVES.items() if entry.function.__module__ == "mmpo.objectives.scores"]


def given_for(name: str) -> dict[str, float]:
    return {key: 1.0 for key in OBJECTIVES[name].required}


@pytest.mark.parametrize("name", [*SCORED, "dama"])
def test_a_score_that_is_not_there_is_refused(name: str) -> None:
    field = "similarity" if name == "sem_dpo" else "chosen"
    nothing = PairLogps(pair().chosen, pair().rejected)
    with pytest.raises(UserError, match=rf"{name} reads scores.{field} of the pairs, and they have none"):
        value(name, nothing, **given_for(name))
    if name == "uft":
        return
    with pytest.raises(UserError, match=rf"{name} reads scores.{field}, which 1 of 1 pairs of a batch lack \(NaN\)"):
        value(name, pair(**{"chosen": 0.5, field: math.nan}), **given_for(name))
    with pytest.raises(UserError, match=rf"{name} reads scores.{field}, which must be .*\(it is inf\)"):
        value(name, pair(**{"chosen": 0.5, field: math.inf}), **given_for(name))


@pytest.mark.parametrize("name", ["mappo", "sppo", "una_mse", "uft"])
@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_a_score_out_of_range_is_refused(name: str, wrong: float) -> None:
    with pytest.raises(UserError, match=rf"{name} reads scores.rejected, which must be from 0 to 1 \(it is {wrong}\)"):
        value(name, pair(1.0, wrong))


def test_a_similarity_is_a_cosine() -> None:
    with pytest.raises(UserError, match=r"sem_dpo reads scores.similarity, which must be from -1 to 1 \(it is 87\)"):
        value("sem_dpo", pair(similarity=87), alpha=1.0)
    value("sem_dpo", pair(similarity=1.0005), alpha=1.0)  # a cosine in half precision


@pytest.mark.parametrize("offset", ["log", "ratio", "linear"])
@pytest.mark.parametrize("scores", [(0.4, 0.4), (0.2, 0.4)])
def test_odpo_refuses_a_gap_that_has_no_offset(offset: str, scores: tuple[float, float]) -> None:
    said = f"odpo needs scores in which chosen is above rejected: .* chosen {scores[0]} and rejected {scores[1]}"
    with pytest.raises(UserError, match=said):
        value("odpo", pair(*scores), offset=offset)


def test_odpo_refuses_the_ratio_of_scores_below_0_and_mappo_a_gap_below_0() -> None:
    with pytest.raises(UserError, match=r"odpo with offset: ratio needs scores above 0: .* rejected 0\n"):
        value("odpo", pair(0.4, 0.0), offset="ratio")
    with pytest.raises(UserError, match=r"mappo needs scores in which chosen is not below rejected"):
        value("mappo", pair(0.2, 0.4))


def test_uft_takes_scores_of_one_side_alone() -> None:
    only = pair(0.8)
    only.scores = {"chosen": only.scores["chosen"]}
    assert value("uft", only) == pytest.approx(value("uft", pair(0.8, math.nan)))
    only.scores = {"rejected": torch.tensor([0.2])}
    assert value("uft", only) == pytest.approx(value("uft", pair(math.nan, 0.2)), rel=1e-6)


@pytest.mark.parametrize("name", ["sem_dpo", "typo"])
def test_a_parameter_without_a_default_must_be_given(name: str) -> None:
    (key,) = OBJECTIVES[name].required
    assert key not in OBJECTIVES[name].parameters
    assert spec_mistakes({name: {}})[0][:2] == ((name, key), f"{name}.{key} must be given: it has no default")
    with pytest.raises(UserError, match=f"^{name}.{key} must be given: it has no default$"):
        build_objective(name)
    with pytest.raises(UserError, match=f"{name}.{key} must be greater than or equal to 0"):
        build_objective({name: {key: -1}})
    build_objective({name: {key: 0}})
    build_objective({name: {key: {"from": 0, "to": 1}}})


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        ("odpo", "alpha", 0), ("odpo", "offset", "square"), ("madpo", "c_min", 1), ("madpo", "c_min", 0),
        ("madpo", "c_max", 1), ("madpo", "lam", -1), ("madpo", "tau", 0), ("madpo", "reward_scale", 0),
        ("da_dpo", "gamma", 0),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(name: str, key: str, wrong: Any) -> None:
    with pytest.raises(UserError, match=rf"^{name}.{key} must be"):
        build_objective({name: {key: wrong}})


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("margin", [3000.0, -3000.0])
def test_finite_far_out_in_float32(name: str, margin: float) -> None:
    policy = torch.tensor([[margin]], requires_grad=True)
    far, other = response([0.0]), response([0.0])
    far.policy, other.policy = policy, -policy
    for side in (far, other):
        side.reference = torch.zeros(1, 1)
    one = torch.ones(1)
    loss = build_objective({name: given_for(name)}).loss(
        PairLogps(far, other, scores={"chosen": one, "rejected": one / 4, "similarity": one})
    )
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.isfinite() and slope.isfinite().all() and loss.dtype == torch.float32
