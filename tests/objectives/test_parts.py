"""Losses over turns, steps and segments: branches by hand, identities, extremes, padding, mistakes of data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.ratios import by_turn
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.making import LOG2, softplus
from tests.objectives.token_records import answer, gradient, losses, record


def test_turns_weigh_less_the_later_they_are() -> None:
    chosen = answer([1.0, 2.0, 3.0, 5.0], turns=[0, 1, 1, 2])
    half = [1.0, 0.5 * 0.75 / 0.875, 0.25 * 0.5 / 0.875]
    assert by_turn(chosen, PairLogps(chosen, chosen), gamma=0.5).tolist()[0] == pytest.approx(
        [half[0], half[1], half[1], half[2]]
    )
    assert by_turn(chosen, PairLogps(chosen, chosen), gamma=1.0).tolist()[0] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    near = by_turn(chosen, PairLogps(chosen, chosen), gamma=1 - 1e-12)  # the limit, not 0/0
    torch.testing.assert_close(near, by_turn(chosen, PairLogps(chosen, chosen), gamma=1.0))
    rejected = answer([4.0, -1.0], turns=[0, 1])
    gap = (1 + 2 / 3 * 5 + 1 / 3 * 5) - (4 - 0.5)
    assert losses("dmpo", chosen, rejected, beta=0.2, gamma=1.0).item() == pytest.approx(softplus(-0.2 * gap))


def test_tokens_outside_turns_do_not_count() -> None:
    inside, outside = answer([1.0, 3.0], turns=[0, 1]), answer([1.0, 9.0, 3.0, 7.0], turns=[0, -1, 1, -1])
    rejected = answer([0.5], turns=[0])
    torch.testing.assert_close(losses("dmpo", inside, rejected), losses("dmpo", outside, rejected))


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_one_turn_is_dpo(gamma: float) -> None:
    chosen, rejected = answer([1.0, -2.0, 4.0], turns=[0, 0, 0]), answer([0.5, 0.25], turns=[0, 0])
    torch.testing.assert_close(losses("dmpo", chosen, rejected, gamma=gamma), losses("dpo", chosen, rejected))


def test_steps_are_weighted_by_their_scores() -> None:
    chosen = answer([1.0, 2.0, 4.0], steps=[0, 1, 1], step_scores=[0.0, math.log(3)])
    rejected = answer([5.0, 1.0], steps=[0, 1], step_scores=[math.log(4), 0.0])
    # softmax(s) = (1/4, 3/4); softmax(-s) of the rejected one = (1/5, 4/5)
    gap = (0.25 * 1 + 0.75 * 6) - (0.2 * 5 + 0.8 * 1)
    assert losses("full_step_dpo", chosen, rejected, beta=0.5).item() == pytest.approx(softplus(-0.5 * gap))
    longer = answer([1.0, 2.0, 4.0, 1.0], steps=[0, 1, 1, 2], step_scores=[0.0, math.log(3), -1e6])
    gap = 3 * (0.25 * 1 + 0.75 * 6) - 2 * (0.2 * 5 + 0.8 * 1)
    found = losses("full_step_dpo", longer, rejected, beta=0.1, scale_by_steps=True)
    assert found.item() == pytest.approx(softplus(-0.1 * gap))
    # gamma = 2: weights (1, 9) and (1/16, 1)
    gap = (0.1 * 1 + 0.9 * 6) - (1 / 17 * 5 + 16 / 17 * 1)
    assert losses("full_step_dpo", chosen, rejected, beta=0.5, gamma=2.0).item() == pytest.approx(softplus(-0.5 * gap))
    whole = losses("full_step_dpo", chosen, rejected, gamma=0.0, scale_by_steps=True)
    torch.testing.assert_close(whole, losses("dpo", chosen, rejected))


def test_best_segments_meet_worst_and_equal_ones_keep_their_order() -> None:
    chosen = answer([1.0, 2.0, 4.0], segments=[0, 1, 2], segment_scores=[[2.0], [3.0], [2.0]])
    rejected = answer([8.0, 16.0], segments=[0, 1], segment_scores=[[1.0], [0.5]])
    # best first: 1, 0, 2; worst first: 1, 0; two are matched
    z = [0.1 * (3 * 2 - 0.5 * 16), 0.1 * (2 * 1 - 1 * 8)]
    found = losses("dpo_2d", chosen, rejected)
    assert found.item() == pytest.approx(sum(softplus(-x) for x in z))
    slope = [1 / (1 + math.exp(x)) for x in z]
    assert gradient(found, chosen.policy, rejected.policy) == [
        pytest.approx([-0.2 * slope[1], -0.3 * slope[0], 0.0]),
        pytest.approx([0.1 * slope[1], 0.05 * slope[0]]),
    ]
    flipped = losses("dpo_2d", chosen, rejected, eps=0.2)
    robust = [(0.8 * softplus(-x) - 0.2 * softplus(x)) / 0.6 for x in z]
    assert flipped.item() == pytest.approx(sum(robust))


def test_aspects_are_averaged_or_weighted() -> None:
    chosen = answer([1.0], segments=[0], segment_scores=[[2.0, 4.0]])
    rejected = answer([3.0], segments=[0], segment_scores=[[1.0, 0.0]])
    equal = losses("dpo_2d", chosen, rejected, beta=1.0).item()
    assert equal == pytest.approx(softplus(-(3 * 1 - 0.5 * 3)))
    weighted = losses("dpo_2d", chosen, rejected, beta=1.0, aspects=[0.25, 1.0]).item()
    assert weighted == pytest.approx(softplus(-(4.5 * 1 - 0.25 * 3)))
    with pytest.raises(UserError, match="3 weights, and segment_scores have 2"):
        losses("dpo_2d", chosen, rejected, aspects=[1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("full_step_dpo", {"steps": [0, 1], "step_scores": [0.5]}, "step_scores lack the score of a step"),
        ("full_step_dpo", {"steps": [0, 0], "step_scores": [math.nan]}, "no step_scores"),
        ("full_step_dpo", {"step_scores": [0.5]}, "'steps'"),
        ("full_step_dpo", {"steps": [0, 0]}, "'step_scores'"),
        ("dpo_2d", {"segments": [0, 1], "segment_scores": [[0.5, 1.0]]}, "segment_scores lack the score of a segment"),
        ("dpo_2d", {"segments": [0, 0], "segment_scores": [[0.5, math.nan]]}, "score of an aspect"),
        ("dpo_2d", {"segments": [0, 0]}, "'segment_scores'"),
        ("dmpo", {}, "'turns'"),
    ],
)
def test_what_is_missing_is_named(name: str, fields: dict[str, Any], words: str) -> None:
    side = answer([0.1, 0.2], **fields)
    with pytest.raises(UserError, match=words):
        losses(name, side, side)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dmpo": {"gamma": 0.0}}, "gamma"),
        ({"dmpo": {"gamma": 1.1}}, "gamma"),
        ({"full_step_dpo": {"gamma": -1.0}}, "gamma"),
        ({"dpo_2d": {"eps": 0.5}}, "eps"),
        ({"dpo_2d": {"aspects": "even"}}, "aspects"),
        ({"dpo_2d": {"aspects": [-1.0]}}, "aspects"),
    ],
)
def test_parameters_out_of_range(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_objective(spec)


SIDES: tuple[list[dict[str, Any]], ...] = (
    [
        {"turns": [0, 1, 2], "steps": [0, 1, 1], "step_scores": [0.3, 0.9], "segments": [0, 1, 2],
         "segment_scores": [[0.1], [0.5], [0.4]]},
        {"turns": [0], "steps": [0], "step_scores": [0.2], "segments": [0], "segment_scores": [[0.7]]},
    ],
    [
        {"turns": [0, 0], "steps": [0, 1], "step_scores": [0.8, 0.1], "segments": [0, 1],
         "segment_scores": [[0.2], [0.9]]},
        {"turns": [0, 1, 1], "steps": [0, 1, 2], "step_scores": [0.5, 0.6, 0.7], "segments": [0, 0, 1],
         "segment_scores": [[0.3], [0.3]]},
    ],
)  # fmt: skip


def sides(scale: float, pad: int = 0, rows: slice = slice(None)) -> list[ResponseLogps]:
    found = []
    for seed, side in enumerate(SIDES):
        generator = torch.Generator().manual_seed(seed)
        made = []
        for one in side:
            policy, reference = (-torch.rand(2, len(one["turns"]), generator=generator) * scale).tolist()
            made.append({"policy": policy, "reference": reference, **one})
        found.append(record(made[rows], pad))
    return found


@pytest.mark.parametrize("name", ["dmpo", "full_step_dpo", "dpo_2d"])
def test_padding_and_company_do_not_count(name: str) -> None:
    plain = losses(name, *sides(1.0))
    torch.testing.assert_close(losses(name, *sides(1.0, pad=4)), plain)
    alone = [losses(name, *sides(1.0, rows=slice(row, row + 1))) for row in range(2)]
    torch.testing.assert_close(torch.cat(alone), plain)


@pytest.mark.parametrize(("name", "expected"), [("dmpo", [1, 1]), ("full_step_dpo", [1, 1]), ("dpo_2d", [2, 1])])
def test_where_policy_is_reference(name: str, expected: list[int]) -> None:
    found = sides(1.0)
    for side in found:
        side.reference = side.policy.detach()
    assert losses(name, *found).tolist() == pytest.approx([count * LOG2 for count in expected])


@pytest.mark.parametrize("given", [{"dmpo": {}}, {"full_step_dpo": {}}, {"dpo_2d": {"eps": 0.1}}])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_in_single_precision_at_extremes(given: dict[str, Any], sign: int) -> None:
    chosen, rejected = sides(3000.0)[::sign]
    narrow = []
    for side in (chosen, rejected):
        more = {k: v.float() if v.is_floating_point() else v for k, v in side.more.items()}
        assert side.reference is not None
        policy = side.policy.detach().float().requires_grad_()
        narrow.append(ResponseLogps(policy, side.reference.float() * 0, side.mask, more=more))
    loss = build_objective(given).loss(PairLogps(narrow[0], narrow[1]))
    loss.backward()
    grads = [side.policy.grad for side in narrow]
    assert loss.isfinite() and all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", ["dmpo", "full_step_dpo", "dpo_2d"])
def test_gradients_against_central_differences(name: str) -> None:
    chosen, rejected = sides(1.0)

    def loss(*policies: torch.Tensor) -> torch.Tensor:
        made = [
            ResponseLogps(policy * side.mask, side.reference, side.mask, more=side.more)
            for policy, side in zip(policies, (chosen, rejected), strict=True)
        ]
        return losses(name, made[0], made[1])

    assert torch.autograd.gradcheck(loss, (chosen.policy, rejected.policy))
