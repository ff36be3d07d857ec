"""Noise on weights that is never added to them: a layer's output moves by x E^T, and E is drawn again for backward."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmpo.trainers.regularizers.lora_layers import LoraMatrix


class _Noisy(torch.autograd.Function):
    """x [..., in] times E^T, E [out, in] normal with the standard deviations `rows` [out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, seed: int) -> Tensor:
        ctx.rows, ctx.seed, ctx.width = rows, seed, x.shape[-1]
        return x @ drawn(rows, x.shape[-1], seed).to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return slope @ drawn(ctx.rows, ctx.width, ctx.seed).to(slope.dtype), None, None


def drawn(rows: Tensor, width: int, seed: int) -> Tensor:
    """E [out, in] for that seed: the same wherever it is drawn again on that kind of device."""
    generator = torch.Generator(rows.device).manual_seed(seed)
    return torch.randn(len(rows), width, generator=generator, device=rows.device, dtype=rows.dtype) * rows[:, None]


def seed_of(seed: int, step: int, *what: object) -> int:
    """A seed that depends on nothing but these: the same in every process, pass and resumed run."""
    digest = hashlib.blake2b(repr((seed, step, *what)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")


class NoiseHooks:
    """Forward hooks on adapted layers. `rows(number)` gives the standard deviations [out] of a layer's noise in this
    step, None for none. Only forward passes that train are noisy, with the adapter on: evaluation and reference see the
    model as it is."""

    def __init__(self, matrices: list[LoraMatrix], seed: int) -> None:
        self.seed, self.step = seed, 0
        self.rows: list[Tensor | None] = [None] * len(matrices)
        for number, matrix in enumerate(matrices):
            matrix.module.register_forward_hook(self._hook(number))

    def _hook(self, number: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def add(module: Any, given: Any, output: Tensor) -> Tensor | None:
            rows = self.rows[number]
            if rows is None or not module.training or module.disable_adapters:
                return None
            found: Tensor = _Noisy.apply(given[0], rows, seed_of(self.seed, self.step, number))
            return output + found.to(output.dtype)

        return add
