"""The networks that a reference can be, and how scoring runs them.

A reference sees the layout and, where nothing in tower or projector trains or differs, the features of the policy. It
runs before the policy and without autograd, so that its temporary memory is gone when the policy's activations appear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import encode_images
from mmpo.models.scoring.segment_logps import SegmentLogps, segment_logps
from mmpo.models.tree.layout import TreeBatch


@dataclass(frozen=True)
class FrozenAdapter:
    """The policy's own network with another adapter, which `load_beside` put there under this name."""

    name: str


class ReferenceNetwork:
    """A reference that is run in every step: the policy's network without its adapter (`adapter_off`) or with another
    one, or a second model of the same kind."""

    def __init__(self, vlm: VLM, network: Literal["adapter_off"] | FrozenAdapter | nn.Module) -> None:
        self._network = network
        self.module = network if isinstance(network, nn.Module) else None
        self.vlm = vlm if self.module is None else replace(vlm, model=cast(Any, self.module))
        if self.module is not None:
            self.module.requires_grad_(False).eval()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Passes inside are the reference's."""
        if isinstance(self._network, FrozenAdapter):
            with self.vlm.adapter_of(self._network.name):
                yield
        elif self.module is None:
            with self.vlm.adapter_off():
                yield
        else:
            yield

    @torch.no_grad()
    def __call__(
        self, layout: TreeBatch, tensors: Mapping[str, Tensor], features: Any | None, **options: Any
    ) -> SegmentLogps:
        """The reference's log-probs of a layout. `features` are the policy's where they are the reference's too; else,
        and always for a second model, the reference encodes the images itself."""
        with self.active():
            if features is None or self.module is not None:
                features = encode_images(self.vlm, tensors, frozen=True)
            return segment_logps(self.vlm, layout, features, **options)
