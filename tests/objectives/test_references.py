"""MRPO: the merged reference by hand, its two orders, its limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.references import merged_references
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.making import LOG2
from tests.objectives.token_records import losses, record


def side(policy: float, first: float, second: float) -> ResponseLogps:
    """Three numbers over two tokens."""

    def row(total: float) -> list[float]:
        return [0.25 * total, 0.75 * total]

    return record([{"policy": row(policy), "reference": row(first), "second_reference": row(second)}])


def harmonic(alpha: float, second: float, first: float) -> float:
    return -math.log(alpha / math.exp(second) + (1 - alpha) / math.exp(first))


def pairs() -> PairLogps:
    return PairLogps(side(-3.0, -4.0, -3.8), side(-5.0, -6.0, -9.0))


def test_merged_by_hand() -> None:
    """m = 3.9 and 7.5, so that of eps 0.3 chosen has 0.3 * 3.9 / 11.4 and rejected the rest: -9 becomes -6 (1 + it)."""
    room = 0.3 * 3.9 / 11.4
    assert -4 * (1 + room) < -3.8 < -4 * (1 - room), "the chosen one is inside"
    held = -6 * (1 + 0.3 - room)
    alpha = 5.2 / (5.2 + 2 + 1e-6)
    for order, share in (("derived", alpha), ("released", 1 - alpha)):
        found = merged_references(pairs(), 0.3, "adaptive", order)  # type: ignore[arg-type]
        assert found[0].item() == pytest.approx(harmonic(share, -3.8, -4.0))
        assert found[1].item() == pytest.approx(harmonic(share, held, -6.0))
        gap = (-3 - found[0].item()) - (-5 - found[1].item())
        loss = losses("mrpo", pairs().chosen, pairs().rejected, beta=0.5, eps=0.3, order=order)
        assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5 * gap)))
    # too likely is held as well: 1 (1 - its share of eps)
    high = PairLogps(side(-3.0, -4.0, -1.0), side(-5.0, -6.0, -6.0))
    room = 0.3 * 2.5 / 8.5
    assert merged_references(high, 0.3, 0.25, "derived")[0].item() == pytest.approx(
        harmonic(0.25, -4 * (1 - room), -4.0)
    )


@pytest.mark.parametrize("order", ["derived", "released"])
def test_its_limits(order: str) -> None:
    chosen, rejected = pairs().chosen, pairs().rejected
    dpo = losses("dpo", chosen, rejected)
    torch.testing.assert_close(losses("mrpo", chosen, rejected, eps=0.0, order=order), dpo)
    same = [side(-3.0, -4.0, -4.0), side(-5.0, -6.0, -6.0)]
    torch.testing.assert_close(losses("mrpo", *same, order=order), dpo)
    first, second = (0.0, 1.0) if order == "derived" else (1.0, 0.0)
    torch.testing.assert_close(losses("mrpo", chosen, rejected, alpha=first, order=order), dpo)
    alone = losses("mrpo", chosen, rejected, alpha=second, eps=0.99, order=order)
    assert alone.isfinite() and alone.item() != pytest.approx(dpo.item())
    both = [losses("mrpo", chosen, rejected, alpha=0.5, order=one) for one in ("derived", "released")]
    torch.testing.assert_close(*both)


def test_references_carry_no_gradient_and_the_step_starts_at_log_2() -> None:
    start = [side(-4.0, -4.0, -4.0), side(-6.0, -6.0, -6.0)]
    assert losses("mrpo", *start).item() == pytest.approx(LOG2)
    made = pairs()
    for one in (made.chosen, made.rejected):
        assert one.reference is not None
        one.reference.requires_grad_()
        one.more["second_reference"].requires_grad_()
    loss = build_objective("mrpo").loss(made)
    slopes = torch.autograd.grad(loss, [made.chosen.policy, made.rejected.policy])
    assert (slopes[0] < 0).all() and (slopes[1] > 0).all()


@pytest.mark.parametrize("alpha", ["adaptive", 0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [3000.0, 1e-30])
def test_finite_in_single_precision_at_extremes(alpha: Any, scale: float) -> None:
    one = torch.ones(2, 1)
    made = [
        ResponseLogps(
            (-scale * one * u).requires_grad_(),
            -scale * one * v,
            one.bool(),
            more={"second_reference": -scale * w * one},
        )
        for u, v, w in ((0.0, 1.0, 0.3), (1.0, 0.1, 0.9))
    ]
    loss = build_objective({"mrpo": {"alpha": alpha}}).loss(PairLogps(made[0], made[1]))
    loss.backward()
    assert loss.isfinite() and all(side.policy.grad is not None and side.policy.grad.isfinite().all() for side in made)


def test_certain_references_divide_by_nothing() -> None:
    assert losses("mrpo", side(0.0, 0.0, 0.0), side(0.0, 0.0, 0.0)).item() == pytest.approx(LOG2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eps": 1.0}, "eps"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": "mean"}, "adaptive"),
        ({"order": "code"}, "released"),
    ],
)
def test_parameters_out_of_range(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_objective({"mrpo": given})


def test_the_second_reference_must_be_there() -> None:
    bare = record([{"policy": [-1.0], "reference": [-1.0]}])
    with pytest.raises(UserError, match="second_reference"):
        losses("mrpo", bare, bare)
