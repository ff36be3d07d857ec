"""Random noise in proportion to the merged weights."""

from __future__ import annotations

import math

from torch import Tensor

from mmpo.trainers.regularizers.lora_layers import LoraMatrix
from mmpo.trainers.regularizers.settings import FlatLoraSettings


def flat_lora_rows(settings: FlatLoraSettings, matrix: LoraMatrix, base_rows: Tensor | None, progress: float) -> Tensor:
    """Standard deviations [out] of a row's noise, rho / sqrt(in) |W'_row|, W' = W0 + scale B A (arXiv:2409.14396 eq. 9;
    without W0, where it is quantized, W' is the update alone). rho rises as (1 - cos(pi progress)) / 2."""
    rho = settings.rho * (1.0 - math.cos(math.pi * progress)) / 2
    return rho / math.sqrt(matrix.a.shape[1]) * matrix.merged_rows(base_rows).sqrt()
