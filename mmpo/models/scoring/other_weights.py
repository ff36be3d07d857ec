"""The policy at weights that it does not have at the moment, for terms that compare the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import encode_images
from mmpo.models.scoring.segment_logps import SegmentLogps, segment_logps
from mmpo.models.scoring.statistics import ReadStatistic
from mmpo.models.tree.layout import TreeBatch


@dataclass(frozen=True)
class OtherWeights:
    """The policy's own network with other weights, which are in place inside `active()`. `statistic` is made of both
    models' states at the tokens of a pair's own sides, these in the place of a reference's, and becomes fields of the
    responses' `more`."""

    active: Callable[[], AbstractContextManager[None]]
    statistic: ReadStatistic

    @torch.no_grad()
    def __call__(
        self, vlm: VLM, layout: TreeBatch, tensors: Mapping[str, Tensor], features: Any | None, chunk: int | None
    ) -> SegmentLogps:
        """The pass over a layout, without gradient and dropout. `features` are the policy's, where nothing in tower or
        projector trains; else the images are encoded at these weights."""
        training = vlm.model.training
        vlm.model.eval()
        try:
            with self.active(), _fresh_casts(vlm.device.type):
                if features is None:
                    features = encode_images(vlm, tensors, frozen=True)
                return segment_logps(vlm, layout, features, chunk=chunk, states=True)
        finally:
            vlm.model.train(training)


def _fresh_casts(device: str) -> AbstractContextManager[Any]:
    """Autocast, where it is on, keeps one cast a parameter, whatever the parameter has held since: not inside."""
    if not torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device), cache_enabled=False)
