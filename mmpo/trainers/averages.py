"""Weighted averages over many batches and processes, with one read from the device at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class Averages:
    """Collects sums and weights by name; `drain` returns sum / weight over everything collected and starts anew.

    Nothing is read from the device before that, so collecting never makes the processor wait.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._weights: dict[str, list[Tensor]] = {}

    def add(self, name: str, total: Tensor, weight: Tensor) -> None:
        """One batch's sum of values and sum of weights, both scalars."""
        self._sums.setdefault(name, []).append(total.detach())
        self._weights.setdefault(name, []).append(weight.detach())

    def add_values(self, values: Mapping[str, Tensor]) -> None:
        """One batch of plain values, `[b]` or a scalar each: every element counts once."""
        for name, value in values.items():
            value = value.detach().float()
            self.add(name, value.sum(), value.new_tensor(float(value.numel())))

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """The averages over all processes. Every process must have collected the same names."""
        names = list(self._sums)
        if not names:
            return {}
        table = torch.stack(
            [torch.stack([torch.stack(of[name]).float().sum() for name in names]) for of in (self._sums, self._weights)]
        )  # [2, names]
        self._sums.clear()
        self._weights.clear()
        if accelerator.num_processes > 1:
            table = accelerator.reduce(table, reduction="sum")
        totals, weights = table.tolist()
        return {name: total / weight for name, total, weight in zip(names, totals, weights, strict=True) if weight}
