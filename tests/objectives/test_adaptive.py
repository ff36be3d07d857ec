"""Losses that make a beta, a margin or a weight from the policy's own numbers: by hand, over steps and over cuts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import States
from mmpo.types import PairLogps, ResponseLogps, StepStatistics
from tests.objectives.making import LOG2, softplus, value

GAPS = [0.5, -1.0, 2.0, 0.25, 4.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs_of(gaps: Sequence[float], score_gaps: Sequence[float] | None = None) -> PairLogps:
    """Pairs with these D, a third of it in the rejected response; of one token."""
    gap = torch.tensor(gaps, dtype=torch.float64)[:, None]
    here = torch.ones_like(gap, dtype=torch.bool)
    scores = torch.zeros(len(gaps), dtype=torch.float64) if score_gaps is None else torch.tensor(score_gaps).double()
    return PairLogps(
        ResponseLogps(gap * 2 / 3 - 1, torch.full_like(gap, -1.0), here),
        ResponseLogps(-gap / 3 - 2, torch.full_like(gap, -2.0), here),
        scores={"chosen": scores, "rejected": torch.zeros_like(scores)},
    )


def looked(
    name: str, pairs: PairLogps, state: dict[str, Any], *, keep: Sequence[int] | None = None, **given: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the step rule finds in a step that is one batch, and the state after it."""
    objective = build_objective({name: given})
    states = {key: torch.as_tensor(one, dtype=torch.float64) for key, one in state.items()}

    def draw(weights: torch.Tensor, count: int) -> torch.Tensor:
        assert keep is not None and count == len(keep)
        return torch.zeros(len(weights), dtype=torch.bool).index_fill(0, torch.tensor(keep), True)

    found, after = OBJECTIVES[name].look(
        objective.statistics(pairs), states, given, seed=0, draw=draw if keep is not None else None
    )
    return dict(found), dict(after)


def mean_loss(name: str, pairs: PairLogps, found: dict[str, torch.Tensor], **given: Any) -> float:
    pairs.step = StepStatistics({}, found={name: found})
    return build_objective({name: given}).loss(pairs).item()


# ---- beta-DPO


def test_beta_dpo_by_hand_over_two_steps() -> None:
    batch_mean = sum(GAPS) / 5
    batch_std = math.sqrt(sum((gap - batch_mean) ** 2 for gap in GAPS) / 4)
    mean, std = 0.1 * batch_mean, 0.1 * batch_std
    kept = [0, 1, 2, 3]
    found, after = looked("beta_dpo", pairs_of(GAPS), {}, keep=kept)
    beta = 0.1 * (1 + 0.6 * (sum(GAPS[k] for k in kept) / 4 - mean))
    assert after["mean"].item() == pytest.approx(mean) and after["std"].item() == pytest.approx(std)
    assert found["beta"].item() == pytest.approx(beta)
    weights = [math.exp(-(((gap - mean) / std) ** 2) / 2) for gap in GAPS]
    assert found["keep_weights"].tolist() == pytest.approx(weights)
    expected = sum(softplus(-beta * GAPS[k]) for k in kept) / 4
    assert mean_loss("beta_dpo", pairs_of(GAPS), found) == pytest.approx(expected)

    found, later = looked("beta_dpo", pairs_of([1.0, 3.0]), dict(after), keep=[1], momentum=0.5, a=2.0)
    mean, std = 0.5 * mean + 0.5 * 2, 0.5 * std + 0.5 * math.sqrt(2)
    assert later["mean"].item() == pytest.approx(mean) and later["std"].item() == pytest.approx(std)
    assert found["beta"].item() == pytest.approx(0.1 * (1 + 2 * (3 - mean)))


def test_beta_dpo_has_a_least_beta_and_needs_no_spread() -> None:
    found, _ = looked("beta_dpo", pairs_of([-50.0, -60.0]), {"mean": 40.0}, a=1.0, keep=[0])
    assert found["beta"].item() == 1e-3
    found, after = looked("beta_dpo", pairs_of([0.0, 0.0, 0.0]), {})
    assert after["std"].item() == 0 and found["keep_weights"].tolist() == [1.0, 1.0, 1.0]
    assert found["kept"].sum() == 2


def test_a_step_of_one_pair_keeps_it() -> None:
    found, after = looked("beta_dpo", pairs_of([2.0]), {"mean": 1.0, "std": 1.0})
    assert found["kept"].tolist() == [1.0] and after["std"].item() == pytest.approx(0.9)
    assert looked("dama", pairs_of([2.0]), {})[0]["kept"].tolist() == [1.0]


@pytest.mark.parametrize("name", ["beta_dpo", "dama"])
def test_the_draw_depends_on_the_seed_and_prefers_the_usual(name: str) -> None:
    pairs = pairs_of([0.0, 0.1, -0.1, 0.2, 900.0])
    objective = build_objective({name: {"keep": 0.4}})
    values = objective.statistics(pairs)
    state: States = {name: {"mean": torch.tensor(0.0).double(), "std": torch.tensor(1.0).double()}}
    drawn = [
        objective.look(StepStatistics(values), state, seed=seed)[0].found[name]["kept"].tolist()
        for seed in (*range(20), 0)
    ]
    assert drawn[0] == drawn[-1] and len({tuple(one) for one in drawn}) > 2
    assert all(sum(one) == 2 for one in drawn)
    if name == "dama":
        assert all(one[4] == 0 for one in drawn), "nobody is as far out"


# ---- DAMA


def dama_beta(score_gap: float, gaps: list[float], mean: float, usual: float, form: str) -> float:
    now = sigmoid(sum(gaps) / len(gaps)) if form == "paper" else sum(map(sigmoid, gaps)) / len(gaps)
    return max(0.1 * sigmoid(score_gap) / sigmoid(usual) * now / sigmoid(mean), 1e-3)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_dama_by_hand(form: str) -> None:
    score_gaps, kept = [0.1, -0.2, 0.3, 0.0, 0.5], [0, 2, 3, 4]
    pairs = pairs_of(GAPS, score_gaps)
    state = {"mean": 0.7, "score_gap_mean": 0.05}
    found, after = looked("dama", pairs, state, keep=kept, form=form)
    seen = [GAPS[k] for k in kept]
    betas = [dama_beta(score_gap, seen, 0.7, 0.05, form) for score_gap in score_gaps]
    assert found["betas"].tolist() == pytest.approx(betas, rel=1e-6)
    assert found["keep_weights"].tolist() == pytest.approx([math.exp(-((gap - 0.7) ** 2) / 2) for gap in GAPS])
    expected = sum(softplus(-betas[k] * GAPS[k]) for k in kept) / 4
    assert mean_loss("dama", pairs_of(GAPS, score_gaps), found, form=form) == pytest.approx(expected, rel=1e-6)
    moved_by = sum(seen) / 4 if form == "paper" else sum(GAPS) / 5
    assert after["mean"].item() == pytest.approx(0.9 * 0.7 + 0.1 * moved_by)
    usual = 0.9 * 0.05 + 0.1 * 0.14 if form == "paper" else 0.05
    assert after["score_gap_mean"].item() == pytest.approx(usual, rel=1e-6)


def test_dama_starts_at_0_and_the_mean_gap_of_the_release() -> None:
    found, _ = looked("dama", pairs_of([0.0, 0.0], [0.0482190464911681] * 2), {}, keep=[1])
    assert found["betas"].tolist() == pytest.approx([0.1, 0.1], rel=1e-6)
    found, _ = looked("dama", pairs_of([-900.0, -900.0], [0.0, 0.0]), {}, keep=[1])
    assert found["betas"].tolist() == [1e-3, 1e-3]
    found, _ = looked("dama", pairs_of([900.0, 900.0], [0.0, 0.0]), {"mean": -900.0}, keep=[1])
    assert found["betas"].isfinite().all()


# ---- gamma-PO


def test_gamma_po_converges_to_its_fixed_point() -> None:
    given: dict[str, Any] = {"beta": 2.0, "ratio": 0.5, "tau": 3.0, "steps": 3000, "reference": True}
    found, _ = looked("gamma_po", pairs_of(GAPS), {}, **given)
    target = found["target_margins"].tolist()
    raw = [math.exp(-(1.0 / 3) * sigmoid(margin - 2 * gap)) for margin, gap in zip(target, GAPS, strict=True)]
    assert target == pytest.approx([5 * one / sum(raw) for one in raw], rel=1e-6)
    assert target[4] == max(target) and target[1] == min(target), "a larger gap, a larger margin"


def test_gamma_po_by_hand_in_one_step() -> None:
    # tau 0.25 makes the rate 1; from the uniform p the slope is tau + g0 sigmoid(g0 - g), tau alike for all
    gaps = [0.4, -0.6]
    found, _ = looked("gamma_po", pairs_of(gaps), {}, beta=1.0, ratio=2.0, tau=0.25, steps=1, reference=True)
    raw = [math.exp(-2 * sigmoid(2 - gap)) for gap in gaps]
    margins = [2 * 2 * one / sum(raw) for one in raw]
    assert found["target_margins"].tolist() == pytest.approx(margins, rel=1e-8)
    pairs = pairs_of(gaps)
    loss = mean_loss("gamma_po", pairs, found, beta=1.0, ratio=2.0, tau=0.25, steps=1, reference=True)
    expected = [softplus(margin - 2 - gap) for margin, gap in zip(margins, gaps, strict=True)]
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-8)


def test_gamma_po_without_reference_compares_averages() -> None:
    def side(*rows: list[float]) -> ResponseLogps:
        policy = torch.tensor(rows, dtype=torch.float64)
        return ResponseLogps(policy, None, policy != 0)

    pairs = PairLogps(side([-1.0, -2.0, 0.0], [-0.5, -0.5, -0.5]), side([-3.0, 0.0, 0.0], [-1.0, -0.2, 0.0]))
    given: dict[str, Any] = {"beta": 2.0, "ratio": 0.5}
    found, after = looked("gamma_po", pairs, {}, **given)
    gaps = [2 * (-1.5 + 3), 2 * (-0.5 + 0.6)]
    assert after["queue"].tolist() == pytest.approx(gaps)
    margins = found["target_margins"].tolist()
    assert sum(margins) == pytest.approx(2 * 1.0)
    expected = sum(softplus(margin - gap) for margin, gap in zip(margins, gaps, strict=True)) / 2
    assert mean_loss("gamma_po", pairs, found, **given) == pytest.approx(expected)
    assert build_objective({"gamma_po": {}}).reads == {"lengths"}
    assert build_objective({"gamma_po": {"reference": True}}).reads == {"reference"}
    assert OBJECTIVES["gamma_po"].averages_of({}) and not OBJECTIVES["gamma_po"].averages_of({"reference": True})


@pytest.mark.parametrize(("queue", "kept"), [(0, []), (3, [0.3, 0.5, -1.0]), (256, [0.1, 0.2, 0.3, 0.5, -1.0])])
def test_the_queue_of_gamma_po_holds_the_last(queue: int, kept: list[float]) -> None:
    given: dict[str, Any] = {"beta": 1.0, "reference": True, "queue": queue}
    found, after = looked("gamma_po", pairs_of([0.5, -1.0]), {"queue": [0.1, 0.2, 0.3]}, **given)
    assert after["queue"].tolist() == pytest.approx(kept)
    without, _ = looked("gamma_po", pairs_of([0.5, -1.0]), {}, **given)
    differs = not torch.equal(found["target_margins"], without["target_margins"])
    assert differs is (queue > 0), "the queue joins the optimisation"


def test_gamma_po_of_a_large_tau_is_simpo_or_dpo() -> None:
    pairs = pairs_of(GAPS)
    for given, other in (
        ({"beta": 2.0}, value("simpo", pairs, beta=2.0, gamma=1.0)),
        ({"beta": 2.0, "reference": True}, value("dpo", pairs, beta=2.0)),
    ):
        assert value("gamma_po", pairs, tau=1e9, **given) == pytest.approx(other, rel=1e-6)


# ---- WPO


def test_the_weight_of_wpo_is_one_for_a_uniform_distribution_and_bounded() -> None:
    pairs = pairs_of([1.2])
    for side in (pairs.chosen, pairs.rejected):
        side.more = {"log_sum_squares": side.policy.clone()}
    assert value("wpo", pairs, beta=0.5) == pytest.approx(softplus(-0.6))
    pairs.chosen.more = {"log_sum_squares": pairs.chosen.policy - 0.75}
    pairs.rejected.more = {"log_sum_squares": pairs.rejected.policy + 0.25}
    assert value("wpo", pairs, beta=0.5) == pytest.approx(math.exp(0.75 - 0.25) * softplus(-0.6))
    pairs.chosen.more = {"log_sum_squares": pairs.chosen.policy - 3000}
    assert value("wpo", pairs, beta=0.5) == pytest.approx(math.exp(80) * softplus(-0.6))
    pairs.chosen.more = {}
    with pytest.raises(UserError, match="log_sum_squares"):
        value("wpo", pairs)


# ---- all of them


@pytest.mark.parametrize("name", ["beta_dpo", "dama"])
def test_values_at_the_start(name: str) -> None:
    assert value(name, pairs_of([0.0] * 5)) == pytest.approx(LOG2)


@pytest.mark.parametrize("name", ["beta_dpo", "dama", "gamma_po"])
def test_a_step_rule_starts_where_its_state_says(name: str) -> None:
    objective = build_objective(name)
    start: States = objective.start()
    assert set(start[name]) == {"beta_dpo": {"mean", "std"}, "dama": {"mean", "score_gap_mean"}}.get(name, {"queue"})
    pairs = pairs_of(GAPS)
    step, after = objective.look(StepStatistics(objective.statistics(pairs)), start, seed=3)
    assert set(after[name]) == set(start[name])
    assert all(one.dtype == torch.float64 for one in after[name].values())
    assert not any(one.requires_grad for one in step.found[name].values())


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        ("beta_dpo", "a", -0.1), ("beta_dpo", "keep", 0), ("beta_dpo", "keep", 1.1), ("beta_dpo", "momentum", 1),
        ("dama", "form", "code"), ("dama", "momentum", -0.1), ("gamma_po", "queue", -1), ("gamma_po", "steps", 0),
        ("gamma_po", "tau", 0), ("gamma_po", "reference", 1), ("gamma_po", "queue", 1.5),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(name: str, key: str, wrong: Any) -> None:
    with pytest.raises(UserError, match=rf"^{name}.{key} must be"):
        build_objective({name: {key: wrong}})


@pytest.mark.parametrize("name", ["beta_dpo", "dama", "gamma_po", "wpo"])
@pytest.mark.parametrize("reference", [False, True])
def test_finite_far_out_in_float32(name: str, reference: bool) -> None:
    policy = torch.tensor([[3000.0], [-3000.0], [0.0]], requires_grad=True)
    here, zeros = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1)
    more = {"log_sum_squares": zeros}
    pairs = PairLogps(
        ResponseLogps(policy, zeros, here, more=more),
        ResponseLogps(-policy, zeros, here, more=more),
        scores={"chosen": torch.ones(3), "rejected": torch.zeros(3)},
    )
    if name == "wpo":  # probabilities above 1 are no policy's; those of 0 are
        pairs.chosen.policy = pairs.rejected.policy = -policy.abs()
    given = {"reference": reference} if name == "gamma_po" else {}
    loss = build_objective({name: given}).loss(pairs)
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.dtype == torch.float32 and loss.isfinite() and slope.isfinite().all()
