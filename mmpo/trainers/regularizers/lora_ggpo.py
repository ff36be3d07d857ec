"""Noise by the weights' and the last gradient's rows."""

from __future__ import annotations

import math

from torch import Tensor

from mmpo.trainers.regularizers.lora_layers import LoraMatrix
from mmpo.trainers.regularizers.settings import LoraGgpoSettings

Slopes = tuple[Tensor, Tensor]
"""Gradients of A and B, or their average."""


def lora_ggpo_rows(
    settings: LoraGgpoSettings, matrix: LoraMatrix, base_rows: Tensor | None, slopes: Slopes | None
) -> Tensor:
    """Standard deviations [out] of a row's noise, (sigma |W_row| + beta |g_row|^2) / sqrt(out), W = W0 + scale B A,
    g = scale (B dA + dB A) of the step before (arXiv:2502.14538, after a third-party implementation, which leaves the
    scale out by mistake). Before the first step g is 0; where W0 is quantized, W is the update alone."""
    rows = settings.sigma * matrix.merged_rows(base_rows).sqrt()
    if slopes is not None:
        rows = rows + settings.beta * matrix.gradient_rows(*slopes)
    return rows / math.sqrt(matrix.b.shape[0])


def followed(settings: LoraGgpoSettings, before: Slopes | None, now: Slopes) -> Slopes:
    """What the next step goes by: this gradient, or with momentum the average m = momentum m + (1 - momentum) g, which
    starts at 0."""
    share = 1.0 - settings.momentum
    if not settings.momentum:
        return now
    if before is None:
        return share * now[0], share * now[1]
    return settings.momentum * before[0] + share * now[0], settings.momentum * before[1] + share * now[1]
