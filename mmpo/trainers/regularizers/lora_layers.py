"""The adapted layers of a model as matrices: W0 + scale B A, of which the products are never made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from mmpo.errors import UserError


@dataclass(frozen=True)
class LoraMatrix:
    """An adapted linear layer: A [r, in], B [out, r], and the frozen W0 [out, in], None where it is quantized."""

    name: str
    module: nn.Module
    a: nn.Parameter
    b: nn.Parameter
    scale: float
    base: Tensor | None

    def update_rows(self) -> Tensor:
        """Squared lengths [out] of the rows of scale B A."""
        return self.scale**2 * rows_of_product(self.b, self.a)

    def merged_rows(self, base_rows: Tensor | None) -> Tensor:
        """Squared lengths [out] of the rows of W0 + scale B A; without W0, of scale B A. `base_rows` are W0's."""
        if self.base is None or base_rows is None:
            return self.update_rows()
        across = (self.base.to(self.a.dtype) @ self.a.T * self.b).sum(1)
        return (base_rows + 2 * self.scale * across + self.update_rows()).clamp_min(0.0)

    def gradient_rows(self, slope_a: Tensor, slope_b: Tensor) -> Tensor:
        """Squared lengths [out] of the rows of scale (B dA + dB A), as [B dB] times [dA; A]."""
        return self.scale**2 * rows_of_product(torch.cat([self.b, slope_b], 1), torch.cat([slope_a, self.a], 0))


def rows_of_product(left: Tensor, right: Tensor) -> Tensor:
    """Squared lengths [n] of the rows of left [n, k] right [k, m]."""
    return (left @ (right @ right.T) * left).sum(1).clamp_min(0.0)


def lora_matrices(model: nn.Module) -> list[LoraMatrix]:
    """Every adapted linear layer that trains, in the model's order. Raises `UserError` where there is none."""
    found = list(_lora_matrices(model))
    if not found:
        raise UserError("the model has no LoRA layer to regularize", hint="leave train.regularizers out")
    return found


def _lora_matrices(model: nn.Module) -> Iterator[LoraMatrix]:
    for name, each in model.named_modules():
        if not isinstance(each, LoraLayer):
            continue
        module = cast(Any, each)
        for adapter in module.active_adapters:
            if adapter not in module.lora_A:
                continue
            a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            if not a.requires_grad or a.dim() != 2:
                continue
            stored = module.get_base_layer().weight
            plain = stored.is_floating_point() and stored.shape == (b.shape[0], a.shape[1])
            yield LoraMatrix(name, module, a, b, module.scaling[adapter], stored.detach() if plain else None)
