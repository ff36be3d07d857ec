"""Dropout on the states that the head reads, one mask after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmpo.trainers.regularizers.noise import seed_of
from mmpo.trainers.regularizers.settings import MultiSampleDropoutSettings


class DropoutHook:
    """A hook on the model below the head. In passes that train it drops entries of the last states and scales the rest
    by 1 / (1 - p). `mask` names the mask: while it stays, the same one falls on policy and reference, whose states have
    one shape, so that where they are the same model their log-probs stay the same."""

    def __init__(self, settings: MultiSampleDropoutSettings, backbone: nn.Module, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.mask: tuple[int, ...] | None = None
        backbone.register_forward_hook(self._drop)

    def _drop(self, module: nn.Module, given: Any, output: Any) -> Any:
        if self.mask is None or not module.training:
            return None
        output.last_hidden_state = self.dropped(output.last_hidden_state)
        return output

    def dropped(self, states: Tensor) -> Tensor:
        """`states` under the present mask."""
        assert self.mask is not None
        generator = torch.Generator(states.device).manual_seed(seed_of(self.seed, *self.mask))
        drawn = torch.rand(states.shape, generator=generator, device=states.device)
        return states * ((drawn >= self.settings.p).to(states.dtype) / (1.0 - self.settings.p))
