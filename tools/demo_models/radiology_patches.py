"""Labels of the patches of a synthetic film, and heads that ask the vision tower for them.

Naming what covers a patch teaches no sides: left and right look alike there. So the heads also ask on which side and in
which zone the finding is and how large; what a report says of a finding is then in the patches that show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mmpo.demo.drawing import SIZE
from mmpo.demo.radiology.chests import DEGREES, KINDS, SIDES, ZONES, Chest
from tools.demo_models.architecture import PATCH
from tools.demo_models.tower_pretraining import NOTHING, patch_areas, surprise

ATTRIBUTES = {"side": SIDES, "zone": ZONES, "degree": DEGREES}
"""The attributes of a finding, and their values: a word each, the same in reports."""


@dataclass(frozen=True)
class PatchLabels:
    """Labels of the patches: kinds [films, IMAGE_TOKENS, KINDS], 0 or 1; the rest [films, IMAGE_TOKENS] of int64.

    kind: index into `KINDS` of the smallest finding that covers the patch; attributes: by name of `ATTRIBUTES`, the
    value of that finding. `NOTHING` where there is none.
    """

    kinds: Tensor
    kind: Tensor
    attributes: dict[str, Tensor]


def patch_labels(chests: Sequence[Chest]) -> PatchLabels:
    """The labels of every patch of the films. A finding covers a patch if it fills a quarter of it, or if a quarter of
    the finding is in it."""
    side = SIZE // PATCH
    kinds = np.zeros((len(chests), side, side, len(KINDS)), dtype=np.float32)
    single = np.full((1 + len(ATTRIBUTES), len(chests), side, side), NOTHING)
    for film, chest in enumerate(chests):
        for finding in sorted(chest.findings, key=lambda one: -one.box[2] * one.box[3]):
            _, _, width, height = finding.box
            covered = patch_areas(finding.box) > 0.25 * min(PATCH**2, width * height)
            kinds[film, covered, KINDS.index(finding.kind)] = 1
            single[0, film, covered] = KINDS.index(finding.kind)
            for row, (name, words) in enumerate(ATTRIBUTES.items(), start=1):
                said = getattr(finding, name)
                single[row, film, covered] = words.index(said) if said else NOTHING
    kind, *rest = torch.from_numpy(single).flatten(2).unbind(0)
    flat = torch.from_numpy(kinds).flatten(1, 2)
    return PatchLabels(flat, kind, dict(zip(ATTRIBUTES, rest, strict=True)))


def mark_places(tower: CLIPVisionModel, strength: float = 0.3) -> None:
    """Add sines and cosines of row and column (as in ViT and MAE) to the tower's position embeddings, in place.

    Learnt from faint random ones, as CLIP begins, they stay faint against what the patches show: left and right of the
    first shipped model differed by half of what up and down did, and its reports gave sides by chance.
    """
    weight = tower.get_parameter("embeddings.position_embedding.weight")
    side, quarter = SIZE // PATCH, weight.shape[1] // 4
    angles = torch.arange(side)[:, None] * torch.pi / side * torch.arange(1, quarter + 1)[None] / quarter * 4
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # [places, width / 2]
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    with torch.no_grad():
        weight[1:] += strength * torch.cat([rows, columns], dim=-1).flatten(0, 1)


class PatchReader(nn.Module):
    """Linear heads that read off patch features which kinds are there, and side, zone and size of the finding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(KINDS), *(len(words) for words in ATTRIBUTES.values())]
        self.heads = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))

    def forward(self, features: Tensor, labels: PatchLabels) -> Tensor:
        """The loss on patch features [films, IMAGE_TOKENS, width]."""
        kinds, *rest = self.heads(features).float().split(self.sizes, dim=-1)
        weight = torch.full((len(KINDS),), 3.0)
        loss = nn.functional.binary_cross_entropy_with_logits(kinds, labels.kinds, pos_weight=weight)
        for scores, truth in zip(rest, labels.attributes.values(), strict=True):
            loss = loss + 0.2 * surprise(scores, truth)
        return loss
