"""Lists of tensors as one vector, and weights that are others for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Vector = list[Tensor]
"""A tensor for each trained parameter, in a fixed order."""

Gradient = Callable[[Vector], Vector]
"""The gradient of the whole step's loss at other weights: the same pairs, the same random numbers."""

TINY = 1e-12


def norm(vector: Sequence[Tensor]) -> Tensor:
    """Length of the whole vector, []."""
    return torch.stack([torch.linalg.vector_norm(part) for part in vector]).norm()


def inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def plus(one: Sequence[Tensor], other: Sequence[Tensor], times: float | Tensor = 1.0) -> Vector:
    """one + times * other."""
    return [a + times * b for a, b in zip(one, other, strict=True)]


def scaled(vector: Sequence[Tensor], length: float) -> Vector:
    """The vector at that length; a vector of zeros stays one."""
    factor = length / (norm(vector) + TINY)
    return [part * factor for part in vector]


@contextmanager
def weights_at(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters hold `values` inside. Their own storage is put aside meanwhile and not written to, so that they
    are the same to the last bit afterwards."""
    kept = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data = value
