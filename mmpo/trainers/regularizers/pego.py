"""The rows of the update at right angles to those of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.trainers.regularizers.lora_layers import LoraMatrix
from mmpo.trainers.regularizers.settings import PegoSettings

_CHUNK = 2**24
"""Entries of |W0 dW^T| that exist at once."""


class _AbsoluteSum(torch.autograd.Function):
    """sum |left right^T| of left [n, r] and right [m, r], a few rows at a time; their gradients are made on the way."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        total = left.new_zeros(())
        slope_left, slope_right = torch.empty_like(left), torch.zeros_like(right)
        step = max(1, _CHUNK // len(right))
        for start in range(0, len(left), step):
            rows = left[start : start + step]
            product = rows @ right.T
            total = total + product.abs().sum()
            signs = product.sign_()
            slope_left[start : start + step] = signs @ right
            slope_right += signs.T @ rows
        ctx.save_for_backward(slope_left, slope_right)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        return slope * left, slope * right


def check_targets(settings: PegoSettings, adapted: Sequence[str]) -> None:
    """Raises `UserError` for a target that no adapted layer, by its full name, is called."""
    leaves = {name.rpartition(".")[2] for name in adapted}
    if unknown := sorted(set(settings.targets) - leaves):
        raise UserError(
            f"regularizers.pego: no adapted layer is called {', '.join(unknown)}",
            hint=f"targets: those of {', '.join(sorted(leaves))}",
        )


def pego_matrices(settings: PegoSettings, matrices: list[LoraMatrix]) -> list[LoraMatrix]:
    """Those that the settings name. Raises `UserError` for a name that is none, and for quantized weights."""
    check_targets(settings, [matrix.name for matrix in matrices])
    return [matrix for matrix in matrices if matrix.name.rpartition(".")[2] in settings.targets]


def pego_penalty(settings: PegoSettings, matrices: list[LoraMatrix]) -> Tensor:
    """lam sum |W0 dW^T|, over layers and entries, dW = scale B A (arXiv:2407.15085; its terms between several adapters
    have no place here). W0 A^T [out, r] and B [out, r] are thin; dW is never made."""
    total = torch.stack([_penalty(matrix) for matrix in matrices]).sum()
    return settings.lam * total


def _penalty(matrix: LoraMatrix) -> Tensor:
    assert matrix.base is not None
    found: Tensor = _AbsoluteSum.apply(matrix.base.to(matrix.a.dtype) @ matrix.a.T, matrix.scale * matrix.b)
    return found
