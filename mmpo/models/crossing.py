"""Values on their way from host to device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def moved(value: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. From the host to a device the host does not wait: on a GPU through pinned memory, because
    from ordinary memory CUDA would have it stand still until everything queued before is done."""
    device = torch.device(device)
    if value.device.type != "cpu" or device.type == "cpu":
        return value.to(device)
    return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)


def placed(numbers: Sequence[int], device: torch.device | str) -> Tensor:
    """Whole numbers as a tensor [n] on `device`, without waiting."""
    return moved(torch.tensor(numbers, dtype=torch.long), device)
