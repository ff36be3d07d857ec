"""Weighted averages over many batches and processes, with one read from the device at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpo.objectives.term import Term


class Averages:
    """Collects sums and weights by name; `drain` returns sum / weight over everything collected and starts again.

    Nothing is read from the device before that, so collecting never makes the processor wait.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._weights: dict[str, list[Tensor]] = {}

    def add_terms(self, terms: Mapping[str, Term], counted: float = 1.0) -> None:
        """Add one batch; `counted` 0 records the names only."""
        for name, term in terms.items():
            self._sums.setdefault(name, []).append(term.values.detach().sum() * counted)
            self._weights.setdefault(name, []).append(term.weights.detach().sum() * counted)

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
