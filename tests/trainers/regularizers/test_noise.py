"""Rows of the noise against whole matrices, and the noise itself against an added one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mmpo.trainers.regularizers.flat_lora import flat_lora_rows
from mmpo.trainers.regularizers.lora_ggpo import followed, lora_ggpo_rows
from mmpo.trainers.regularizers.lora_layers import LoraMatrix
from mmpo.trainers.regularizers.noise import NoiseHooks, drawn, seed_of
from mmpo.trainers.regularizers.settings import FlatLoraSettings, LoraGgpoSettings
from tests.trainers.regularizers.hand_made import HandMade


def test_flat_lora_rows_are_those_of_the_merged_weights() -> None:
    model = HandMade()
    merged = (model.base + model.scale * model.b @ model.a).detach()
    base_rows = model.base.square().sum(1)
    settings = FlatLoraSettings(rho=0.1)
    for progress, ramp in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        rows = flat_lora_rows(settings, model.matrix(), base_rows, progress).detach()
        torch.testing.assert_close(rows, 0.1 * ramp / math.sqrt(5) * merged.norm(dim=1))
    update = model.scale * model.b @ model.a
    quantized = flat_lora_rows(settings, model.matrix(quantized=True), None, 1.0)
    torch.testing.assert_close(quantized, 0.1 / math.sqrt(5) * update.norm(dim=1))


def test_lora_ggpo_rows_are_those_of_weights_and_gradient() -> None:
    model = HandMade()
    torch.manual_seed(0)
    slopes = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    merged = model.base + model.scale * model.b @ model.a
    gradient = model.scale * (model.b @ slopes[0] + slopes[1] @ model.a)
    settings = LoraGgpoSettings(sigma=0.2, beta=0.3)
    base_rows = model.base.square().sum(1)
    expected = (0.2 * merged.norm(dim=1) + 0.3 * gradient.square().sum(1)) / 2  # sqrt(4 rows)
    torch.testing.assert_close(lora_ggpo_rows(settings, model.matrix(), base_rows, slopes), expected)
    torch.testing.assert_close(lora_ggpo_rows(settings, model.matrix(), base_rows, None), 0.2 * merged.norm(dim=1) / 2)


def test_the_average_of_gradients_starts_at_nothing() -> None:
    one, two = (torch.tensor([1.0]), torch.tensor([2.0])), (torch.tensor([3.0]), torch.tensor([-2.0]))
    assert followed(LoraGgpoSettings(), one, two) is two
    settings = LoraGgpoSettings(momentum=0.9)
    first = followed(settings, None, one)
    torch.testing.assert_close(first[0], torch.tensor([0.1]))
    torch.testing.assert_close(followed(settings, first, two)[0], torch.tensor([0.9 * 0.1 + 0.1 * 3.0]))


class Layer(nn.Module):
    """As peft's, as far as the hook looks."""

    disable_adapters = False

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


def hooked() -> tuple[Layer, NoiseHooks]:
    model = HandMade()
    layer: Any = Layer(model.base)
    matrix = LoraMatrix("q_proj", layer, model.a, model.b, 1.0, model.base)
    return layer, NoiseHooks([matrix], seed=7)


def test_noise_is_that_of_a_moved_weight_in_value_and_gradient() -> None:
    layer, hooks = hooked()
    rows = torch.tensor([0.1, 0.2, 0.0, 1.0], dtype=torch.float64)
    hooks.rows[0], hooks.step = rows, 3
    moved = layer.weight + drawn(rows, 5, seed_of(7, 3, 0))
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 4, dtype=torch.float64)
    (layer(x) * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(layer(x), x @ moved.T)
    torch.testing.assert_close(x.grad, weights @ moved)
    assert torch.equal(layer(x)[..., 2], layer.eval()(x)[..., 2]) and not torch.equal(moved, layer.weight)


def test_noise_is_for_passes_that_train_with_the_adapter_on() -> None:
    layer, hooks = hooked()
    x = torch.randn(3, 5, dtype=torch.float64)
    plain = layer(x)
    hooks.rows[0] = torch.ones(4, dtype=torch.float64)
    noisy = layer(x)
    assert not torch.equal(noisy, plain) and torch.equal(layer(x), noisy)
    hooks.step = 1
    assert not torch.equal(layer(x), noisy)
    layer.disable_adapters = True  # the reference's pass
    assert torch.equal(layer(x), plain)
    layer.disable_adapters = False
    assert torch.equal(layer.eval()(x), plain)


def test_noise_has_the_deviation_of_its_row() -> None:
    rows = torch.tensor([0.5, 2.0])
    found = drawn(rows, 20_000, 1)
    torch.testing.assert_close(found.std(1), rows, rtol=0.03, atol=0)
    assert seed_of(0, 1, 2) == seed_of(0, 1, 2) != seed_of(0, 2, 2)
