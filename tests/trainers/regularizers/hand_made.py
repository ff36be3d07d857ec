"""A hand-made adapter in float64, small enough to do everything by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmpo.trainers.regularizers.lora_layers import LoraMatrix
from mmpo.trainers.regularizers.vectors import Vector, weights_at


class HandMade(nn.Module):
    """y = x (W0 + scale B A)^T on a few rows, with the loss of each row against a target."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.base, self.scale = draw(4, 5), scale
        self.a, self.b = nn.Parameter(draw(2, 5)), nn.Parameter(draw(4, 2))
        self.x, self.y = draw(6, 5), draw(6, 4)

    def losses(self, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        a, b = self.a if a is None else a, self.b if b is None else b
        return (self.x @ (self.base + self.scale * b @ a).T - self.y).square().mean(1)

    @property
    def parameters_(self) -> list[nn.Parameter]:
        return [self.a, self.b]

    @property
    def weights(self) -> Vector:
        return [self.a.detach(), self.b.detach()]

    def at(self, point: Vector) -> Vector:
        """The gradient of the mean loss there, as the engine takes it."""
        with weights_at(self.parameters_, point):
            return list(torch.autograd.grad(self.losses().mean(), self.parameters_))

    def gradient(self, point: Vector) -> Tensor:
        """The same without the package, as one flat vector."""
        a, b = (part.detach().clone().requires_grad_() for part in point)
        (self.losses(a, b)).mean().backward()
        assert a.grad is not None and b.grad is not None
        return torch.cat([a.grad.flatten(), b.grad.flatten()])

    def split(self, flat: Tensor) -> Vector:
        return [flat[:10].view(2, 5), flat[10:].view(4, 2)]

    def matrix(self, *, quantized: bool = False) -> LoraMatrix:
        module: Any = nn.Identity()
        return LoraMatrix("q_proj", module, self.a, self.b, self.scale, None if quantized else self.base)


def flat(vector: Vector) -> Tensor:
    return torch.cat([part.flatten() for part in vector])
