"""Losses over a corrupted image: golden values, identities, and the direction in which they push."""

from __future__ import annotations

import math

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.visual import CHOSEN, REJECTED
from mmpo.types import PairLogps, ResponseLogps

NAMES = ("image_preference", "mdpo", "rdpo", "vdpo")


def response(policy: float, reference: float = 0.0, tokens: int = 3) -> ResponseLogps:
    """One response whose log-probs add up to the given sums; double precision."""
    mask = torch.ones(1, tokens, dtype=torch.bool)
    spread = [torch.full((1, tokens), value / tokens, dtype=torch.float64) for value in (policy, reference)]
    spread[0].requires_grad_()
    return ResponseLogps(spread[0], spread[1], mask)


def pairs(chosen: float, rejected: float, corrupted: float, rejected_corrupted: float = 0.0) -> PairLogps:
    views = {CHOSEN: response(corrupted), REJECTED: response(rejected_corrupted)}
    return PairLogps(response(chosen), response(rejected), views)


def test_mdpo_has_the_value_of_the_specification() -> None:
    """beta .1, rho 1, -2 and -.5 under the corrupted image: .554355 + .620957 + .644397."""
    parts = {
        "dpo": 0.554355,
        "image_preference": 0.620957,
        "anchor": 0.644397,
        "mdpo": 1.819710,
        "rdpo": 0.554355 + 0.620957,
    }
    for name, expected in parts.items():
        assert build_objective(name).loss(pairs(1.0, -2.0, -0.5)).item() == pytest.approx(expected, abs=2e-6), name


def test_named_terms_compose_to_mdpo() -> None:
    both = build_objective({"dpo": None, "image_preference": 0.5, "anchor": {"weight": 2.0, "delta": 0.3}})
    whole = build_objective({"mdpo": {"image": 0.5, "anchor": 2.0, "delta": 0.3}})
    assert both.loss(pairs(1.0, -2.0, -0.5)).item() == pytest.approx(whole.loss(pairs(1.0, -2.0, -0.5)).item())


@pytest.mark.parametrize(("name", "logistic_terms"), [("image_preference", 1), ("anchor", 1), ("mdpo", 3), ("rdpo", 2)])
def test_at_policy_equal_to_reference_every_term_is_log_two(name: str, logistic_terms: int) -> None:
    assert build_objective(name).loss(pairs(0, 0, 0)).item() == pytest.approx(logistic_terms * math.log(2))


def test_anchors_push_the_chosen_answer_up() -> None:
    for name in ("anchor", "mdpo", "image_preference"):
        given = pairs(1.0, -2.0, -0.5)
        build_objective(name).loss(given).backward()
        assert (given.chosen.policy.grad < 0).all(), name


def test_the_image_preference_pushes_the_corrupted_image_down() -> None:
    given = pairs(1.0, -2.0, -0.5)
    build_objective("image_preference").loss(given).backward()
    assert (given.view(CHOSEN).policy.grad > 0).all() and given.rejected.policy.grad is None


def test_vdpo_without_guidance_is_dpo() -> None:
    given = pairs(1.0, -2.0, -0.5, 0.7)
    assert build_objective({"vdpo": {"gamma": 1.0}}).loss(given).item() == build_objective("dpo").loss(given).item()


def test_vdpo_guidance_by_hand_and_without_gradient() -> None:
    given = pairs(1.0, -2.0, -0.5, 0.7)
    loss = build_objective({"vdpo": {"gamma": 0.25}}).loss(given)
    scores = (1.0 - 0.75 * (1.0 + 0.5), -2.0 - 0.75 * (-2.0 - 0.7))
    z = 0.1 * (scores[0] - scores[1])
    assert loss.item() == pytest.approx(math.log1p(math.exp(-z)))
    loss.backward()
    slope = -0.1 / (1 + math.exp(z))
    torch.testing.assert_close(given.chosen.policy.grad, torch.full((1, 3), slope).double())
    assert given.view(CHOSEN).policy.grad is None
    reference = build_objective({"vdpo": {"gamma": 0.25, "text": "reference"}}).loss(given)
    assert reference.item() == build_objective("dpo").loss(given).item(), "the reference sees no difference here"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name: str) -> None:
    # With the reference as text model nothing of vdpo hides behind a stop-gradient.
    objective = build_objective({name: {"text": "reference"} if name == "vdpo" else {}})
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, True, False]])

    def loss(*policies: torch.Tensor) -> torch.Tensor:
        sides = [
            ResponseLogps(policy * mask, torch.linspace(-1, 0.5 + k, 6).double().view(2, 3) * mask, mask)
            for k, policy in enumerate(policies)
        ]
        return objective.loss(PairLogps(sides[0], sides[1], {CHOSEN: sides[2], REJECTED: sides[3]}))

    inputs = [torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_a_batch_without_the_view_is_refused() -> None:
    with pytest.raises(UserError, match="chosen_corrupted"):
        build_objective("mdpo").loss(PairLogps(response(1.0), response(2.0)))
    with pytest.raises(UserError, match="policy or reference"):
        build_objective({"vdpo": {"text": "clip"}})
