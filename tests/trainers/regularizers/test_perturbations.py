"""Each two-pass method against a few lines that use nothing of the package, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmpo.trainers.regularizers.awp import awp
from mmpo.trainers.regularizers.fad import fad
from mmpo.trainers.regularizers.gam import gam
from mmpo.trainers.regularizers.rwp import rwp
from mmpo.trainers.regularizers.sam import sam
from mmpo.trainers.regularizers.settings import AwpSettings, FadSettings, GamSettings, RwpSettings, SamSettings
from mmpo.trainers.regularizers.vectors import Vector, weights_at
from tests.trainers.regularizers.hand_made import HandMade, flat


def assert_exact(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


@pytest.fixture
def model() -> HandMade:
    return HandMade()


def test_sam_is_the_gradient_a_step_uphill(model: HandMade) -> None:
    w, g = flat(model.weights), model.gradient(model.weights)
    found = flat(sam(SamSettings(rho=0.3), model.weights, model.at(model.weights), model.at))
    assert_exact(found, model.gradient(model.split(w + 0.3 * unit(g))))


def test_adaptive_sam_steps_in_proportion_to_the_weights(model: HandMade) -> None:
    w, g = flat(model.weights), model.gradient(model.weights)
    found = flat(sam(SamSettings(adaptive=True), model.weights, model.at(model.weights), model.at))
    assert_exact(found, model.gradient(model.split(w + 2.0 * w**2 * g / (w * g).norm())))
    assert SamSettings().radius == 0.05


def test_sam_where_b_is_zero_perturbs_b_alone(model: HandMade) -> None:
    model.b.data.zero_()
    first = model.at(model.weights)
    points: list[Vector] = []

    def at(point: Vector) -> Vector:
        points.append(point)
        return model.at(point)

    sam(SamSettings(), model.weights, first, at)
    assert torch.equal(points[0][0], model.a) and points[0][1].norm().item() == pytest.approx(0.05)
    sam(SamSettings(adaptive=True), model.weights, first, at)
    assert torch.equal(points[1][0], model.a) and not points[1][1].any()
    assert all(part.isfinite().all() for part in awp(AwpSettings(), model.weights, first, model.at))


def test_awp_goes_matrix_by_matrix_and_leaves_vectors_alone(model: HandMade) -> None:
    ga, gb = model.split(model.gradient(model.weights))
    a, b = model.weights
    expected = model.gradient([a + 0.1 * a.norm() * unit(ga), b + 0.1 * b.norm() * unit(gb)])
    found = flat(awp(AwpSettings(gamma=0.1), model.weights, model.at(model.weights), model.at))
    assert_exact(found, expected)
    vector = [torch.ones(3), torch.ones(2, 2)]
    moved = awp(AwpSettings(gamma=0.1), vector, [torch.ones(3), torch.ones(2, 2)], lambda point: point)
    assert torch.equal(moved[0], torch.ones(3))
    torch.testing.assert_close(moved[1], torch.full((2, 2), 1.1))


def below(model: HandMade, point: Vector, threshold: float) -> tuple[Vector, int]:
    with weights_at(model.parameters_, point):
        losses = model.losses()
        small = losses.detach() < threshold
        gradient = torch.autograd.grad((losses * small).mean(), model.parameters_)
    return list(gradient), int(small.sum())


def test_rwp_climbs_on_small_losses_only(model: HandMade) -> None:
    threshold = float(model.losses().detach().median()) + 1e-6
    settings = RwpSettings(gamma=0.02, threshold=threshold, steps=3)
    found = flat(rwp(settings, model.weights, model.at, lambda point, bound: below(model, point, bound)))

    w, total = flat(model.weights), torch.zeros(18, dtype=torch.float64)
    point = w
    for _ in range(3):
        a, b = (part.clone().requires_grad_() for part in model.split(point))
        losses = model.losses(a, b)
        torch.stack([loss for loss in losses if loss < threshold]).sum().div(6).backward()
        total = total + torch.cat([a.grad.flatten(), b.grad.flatten()])  # type: ignore[union-attr]
        point = w + 0.02 * w.norm() * unit(total)
    assert_exact(found, model.gradient(model.split(point)))


def test_rwp_without_small_losses_is_the_plain_gradient(model: HandMade) -> None:
    asked = []

    def nothing(point: Vector, bound: float) -> tuple[Vector, int]:
        asked.append(bound)
        return below(model, point, bound)

    found = rwp(RwpSettings(threshold=-1.0), model.weights, model.at, nothing)
    assert torch.equal(flat(found), flat(model.at(model.weights))) and asked == [-1.0]


def test_fad(model: HandMade) -> None:
    w, g0 = flat(model.weights), model.gradient(model.weights)

    def uphill(direction: Tensor) -> Tensor:
        return model.gradient(model.split(w + 0.2 * unit(direction)))

    h0 = uphill(g0) - g0
    g2 = uphill(h0)
    h1 = uphill(g2) - g2
    expected = g0 + 0.7 * (0.25 * h0 + 0.75 * h1)
    settings = FadSettings(rho=0.2, alpha=0.25, beta=0.7)
    found = flat(fad(settings, model.weights, model.at(model.weights), model.at))
    assert_exact(found, expected)
    plain = fad(FadSettings(beta=0.0), model.weights, model.at(model.weights), model.at)
    assert_exact(flat(plain), g0)


def test_gam(model: HandMade) -> None:
    w, g0 = flat(model.weights), model.gradient(model.weights)
    g1 = model.gradient(model.split(w + 0.1 * unit(g0)))
    v = w + 0.4 * unit(g1 - g0)
    g2 = model.gradient(model.split(v))
    g3 = model.gradient(model.split(v + 0.1 * unit(g2)))
    new, old = g1 + g3, g0 + g2
    across = old - (old @ unit(new)) * unit(new)
    found = flat(gam(GamSettings(rho=0.1, norm_rho=0.4, mix=0.3), model.weights, model.at(model.weights), model.at))
    assert_exact(found, new - 0.3 * across)
    assert abs(float(across @ new)) < 1e-10


def test_weights_are_restored_bit_by_bit_even_after_an_error(model: HandMade) -> None:
    before = [part.clone() for part in model.weights]
    storage = [parameter.data_ptr() for parameter in model.parameters_]
    with pytest.raises(ZeroDivisionError), weights_at(model.parameters_, [part + 1e-9 for part in model.weights]):
        assert not torch.equal(model.a, before[0])
        raise ZeroDivisionError
    assert all(torch.equal(one, other) for one, other in zip(before, model.weights, strict=True))
    assert storage == [parameter.data_ptr() for parameter in model.parameters_]
