"""Losses of single tokens by hand: drawn positions, tails, flows, anchored tokens, ranked images, BMC's weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.ranking import partial_view, plackett_luce
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.making import LOG2, softplus
from tests.objectives.token_records import answer, gradient, losses, record

# ---- sampo


def test_drawn_tokens_of_the_longer_response_count_and_no_others() -> None:
    chosen = answer([1.0, 2.0, 4.0, 8.0], positions=[1, 3])
    rejected = answer([0.5, 0.25])
    found = losses("sampo", chosen, rejected, beta=0.1, draw=True)
    assert found.item() == pytest.approx(softplus(-0.1 * (10 - 0.75)))
    slope = 0.1 / (1 + math.exp(0.1 * 9.25))
    assert gradient(found, chosen.policy, rejected.policy) == [
        pytest.approx([0, -slope, 0, -slope]),
        pytest.approx([slope, slope]),
    ]
    torch.testing.assert_close(
        losses("sampo", rejected, chosen, draw=True), losses("dpo", rejected, answer([2.0, 8.0]))
    )


def test_equal_lengths_draw_nothing() -> None:
    chosen, rejected = answer([1.0, 2.0]), answer([0.5, 3.0])
    torch.testing.assert_close(losses("sampo", chosen, rejected, draw=True), losses("dpo", chosen, rejected))


def test_positions_must_be_there_and_as_many_as_the_shorter_has() -> None:
    rejected = answer([0.5, 0.25])
    with pytest.raises(UserError, match="'positions'"):
        losses("sampo", answer([1.0, 2.0, 4.0]), rejected, draw=True)
    with pytest.raises(UserError, match="'positions'"):
        losses("sampo", answer([1.0, 2.0, 4.0], positions=[1]), rejected, draw=True)
    reads = [OBJECTIVES["sampo"].reads_of(given) for given in ({}, {"draw": True})]
    assert [("positions" in read) for read in reads] == [False, True]


# ---- dpo_bmc


def test_bmc_weighs_the_reference_by_the_policy_or_by_itself() -> None:
    chosen = record([{"policy": [-0.2, -3.0], "reference": [-0.5, -0.4], "weights": [4.0, 0.5]}])
    rejected = record([{"policy": [-0.7], "reference": [-0.1], "weights": [1.0]}])
    ours = [1 + math.exp(0.2), 1 + 2.5]
    theirs = [1 + math.exp(0.5), 1 + math.exp(0.4)]
    paper = ours[0] * 0.3 + ours[1] * -2.6 + 0.6
    released = ours[0] * -0.2 + ours[1] * -3.0 + theirs[0] * 0.5 + theirs[1] * 0.4 + 0.6
    for given, gap in (("policy", paper), ("own", released)):
        found = losses("dpo_bmc", chosen, rejected, beta=0.5, cap=2.5, reference_weights=given)
        assert found.item() == pytest.approx(softplus(-0.5 * gap))
        slope = 0.5 / (1 + math.exp(0.5 * gap))
        assert gradient(found, chosen.policy)[0] == pytest.approx([-slope * u for u in ours])


# ---- ra_dpo


def test_only_the_rejected_tail_has_a_gradient() -> None:
    chosen, rejected = answer([1.0, 2.0], tail_kl=[0.5, 0.25]), answer([0.5], tail_kl=[0.125])
    found = losses("ra_dpo", chosen, rejected, beta=0.5, alpha=0.4)
    gap = 2.5 - 0.4 * (0.125 - 0.75)
    assert found.item() == pytest.approx(softplus(-0.5 * gap))
    slope = 0.5 * 0.4 / (1 + math.exp(0.5 * gap))
    assert gradient(found, chosen.more["tail_kl"], rejected.more["tail_kl"]) == [None, pytest.approx([slope])]
    torch.testing.assert_close(losses("ra_dpo", chosen, rejected, alpha=0.0), losses("dpo", chosen, rejected))
    same = [ResponseLogps(s.policy, s.reference, s.mask, kl=s.more["tail_kl"]) for s in (chosen, rejected)]
    torch.testing.assert_close(losses("ra_dpo", chosen, rejected, mu=0.5), losses("tdpo2", same[0], same[1]))
    with pytest.raises(UserError, match="'tail_kl'"):
        losses("ra_dpo", answer([1.0]), answer([1.0]))


# ---- gdpo


def flowing(policy: list[float], reference: list[float], ours: list[float], theirs: list[float]) -> dict[str, Any]:
    return {"policy": policy, "reference": reference, "eos_policy": ours, "eos_reference": theirs}


def test_flow_balances_between_neighbours_and_ends_with_the_reward() -> None:
    chosen = flowing([-1.0, -2.0, -0.5], [-1.5, -1.0, -0.25], [-3.0, -4.0, -1.0], [-2.0, -5.0, -0.5])
    rejected = flowing([-1.0, -2.0], [-1.5, -1.0], [-3.0, -4.0], [-2.0, -5.0])
    # F = q + e - f: -0.5, -2, 0.25; and of the rejected one -0.5, -2 - 8 alpha
    up = (-0.5 + 2 - 1) ** 2 + (-2 - 0.25 - 2) ** 2
    for alpha in (0.1, 2.0):
        down = (-0.5 + 2 + 8 * alpha - 1) ** 2
        found = losses("gdpo", record([chosen]), record([rejected], pad=2), alpha=alpha)
        assert found.item() == pytest.approx((up + down) / 2)
    only = record([flowing([-1.0], [-1.0], [-3.0], [-2.0])])
    assert losses("gdpo", only, only).item() == 0
    padded = losses("gdpo", record([chosen, rejected]), record([rejected, chosen]))
    assert padded[0].item() == pytest.approx((up + (-0.5 + 2 + 0.8 - 1) ** 2) / 2)
    assert padded[1].item() == pytest.approx(((0.5) ** 2 + 0.25 + (-2 - 0.25 + 0.8 - 2) ** 2) / 2)
    assert "rewards/chosen" not in build_objective("gdpo").metrics(PairLogps(only, only))
    with pytest.raises(UserError, match="'eos_reference'"):
        losses("gdpo", answer([1.0, 1.0]), answer([1.0]))


# ---- tpo

LOGITS = ("label_logit", "label_logit_corrupted", "reference_label_logit", "reference_label_logit_corrupted")


def test_tokens_that_the_image_moves_are_anchored() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    chosen = answer([1.0], **dict(zip(LOGITS, ([5.0], [3.0], [4.0], [4.5]), strict=True)))
    rejected = answer([0.5], **dict(zip(LOGITS, ([1.0], [2.0], [7.0], [6.0]), strict=True)))
    a = 1 + math.log(0.25 + sigmoid(2)) - math.log(0.25 + sigmoid(-0.5))
    b = 0.5 + math.log(0.25 + 1 - sigmoid(-1)) - math.log(0.25 + 1 - sigmoid(1))
    found = losses("tpo", chosen, rejected, beta=0.3, offset=0.25)
    assert found.item() == pytest.approx(softplus(-0.3 * (a - b)))
    slope = 0.3 / (1 + math.exp(0.3 * (a - b)))
    up = sigmoid(2) * sigmoid(-2) / (0.25 + sigmoid(2))
    assert gradient(found, *(chosen.more[name] for name in LOGITS[:2])) == [
        pytest.approx([-slope * up]),
        pytest.approx([slope * up]),
    ]
    still = [
        answer([1.0, -3.0], **{name: [9.0, 1.0] for name in LOGITS}),
        answer([0.5], **{name: [2.0] for name in LOGITS}),
    ]
    for offset in (0.5, 3.0):
        torch.testing.assert_close(losses("tpo", *still, offset=offset), losses("dpo", *still))
    with pytest.raises(UserError, match="'label_logit'"):
        losses("tpo", answer([1.0]), answer([1.0]))


# ---- lpoi


@pytest.mark.parametrize("levels", [1, 3])
def test_a_list_of_images(levels: int) -> None:
    scores = [2.0, 1.0, -0.5, 0.25][: levels + 1]
    views = {partial_view(k): answer([0.5 * score, 0.5 * score]) for k, score in enumerate(scores[1:], 1)}
    views = dict(reversed(views.items()))  # whatever order they come in
    chosen, rejected = answer([2.0]), answer([0.75])
    listed = 0.0
    for place in range(len(scores) - 1):
        listed += math.log(sum(math.exp(0.4 * (s - scores[place])) for s in scores[place:]))
    expected = softplus(-0.4 * 1.25) + 0.5 * listed + 2 * softplus(0.1 - 0.4 * 2)
    found = losses("lpoi", chosen, rejected, views, beta=0.4, delta=0.1, image=0.5, anchor=2.0, levels=levels)
    assert found.item() == pytest.approx(expected)
    assert len(OBJECTIVES["lpoi"].views_of({"levels": levels})) == levels
    if levels == 1:
        corrupted = {OBJECTIVES["mdpo"].views_of({})[0]: answer([1.0])}
        torch.testing.assert_close(losses("lpoi", chosen, rejected, views), losses("mdpo", chosen, rejected, corrupted))


def test_a_list_starts_at_the_number_of_its_orders() -> None:
    same = answer([0.0, 0.0])
    views = {partial_view(k): answer([0.0]) for k in range(1, 5)}
    assert losses("lpoi", same, same, views).item() == pytest.approx(2 * LOG2 + math.log(120))
    assert plackett_luce(torch.zeros(3, 2)).tolist() == pytest.approx([math.log(6)] * 2)
    with pytest.raises(UserError, match="chosen_partial_1"):
        losses("lpoi", same, same)
    with pytest.raises(UserError, match="levels"):
        build_objective({"lpoi": {"levels": 0}})


# ---- all


@pytest.mark.parametrize("name", ["sampo", "ra_dpo", "gdpo", "tpo", "lpoi", "dpo_bmc"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_finite_in_single_precision_at_extremes(name: str, sign: float) -> None:
    def side(ratio: float) -> ResponseLogps:
        one = torch.ones(1, 2)
        logits = {field: ratio * (k + 1) * one for k, field in enumerate(LOGITS)}
        more = {"tail_kl": 3000 * one, "eos_policy": -3000 * one, "eos_reference": -0 * one, **logits}
        policy = (ratio * one).requires_grad_()
        return ResponseLogps(policy, -ratio * one, one.bool(), 4 * one, more=more)

    pairs = PairLogps(side(1500 * sign), side(-1500 * sign), {partial_view(k): side(-700.0 * k) for k in (1, 2)})
    loss = build_objective({name: {"draw": True} if name == "sampo" else {}}).loss(pairs)
    loss.backward()
    assert loss.isfinite() and pairs.chosen.policy.grad is not None and pairs.chosen.policy.grad.isfinite().all()


@pytest.mark.parametrize("name", ["span_dpo", "dense_dpo", "subset_dpo", "dpo_bmc", "sampo", "ra_dpo", "tpo"])
def test_rewards_are_beta_times_the_summed_log_ratio(name: str) -> None:
    logits = dict(zip(LOGITS, ([5.0] * 2, [3.0] * 2, [4.0] * 2, [4.5] * 2), strict=True))
    side = answer([1.0, 2.0], weights=[3.0, 0.5], tail_kl=[1.0, 1.0], **logits)
    metrics = build_objective({name: {"beta": 0.2}}).metrics(PairLogps(side, side))
    assert metrics["rewards/chosen"].values.tolist() == pytest.approx([0.6])
