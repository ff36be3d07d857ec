"""What patches of a synthetic film are labelled with, and how their places are told apart."""

from __future__ import annotations

import pytest
import torch

from mmpo.demo.drawing import SIZE
from mmpo.demo.radiology import chests
from tools.demo_models.architecture import PATCH
from tools.demo_models.radiology_patches import PatchReader, mark_places, patch_labels
from tools.demo_models.tower_pretraining import NOTHING


def chest(*findings: chests.ChestFinding) -> chests.Chest:
    return chests.Chest(findings, (0, 9, 0))


HAND_MADE = chest(
    chests.ChestFinding("effusion", "left", "moderate", None, (67, 70, 38, 36)),
    chests.ChestFinding("opacity", "right", None, "upper", (31, 34, 22, 22)),
)


def test_patches_know_side_zone_and_size() -> None:
    labels = patch_labels([HAND_MADE, chest()])
    effusion, opacity = (labels.kind[0] == chests.KINDS.index(kind) for kind in ("effusion", "opacity"))
    assert effusion.sum() >= 2 and opacity.sum() >= 1
    assert labels.kinds[0].sum() >= 3 and not labels.kinds[1].any()
    side, zone, degree = (labels.attributes[name][0] for name in ("side", "zone", "degree"))
    assert set(side[effusion].tolist()) == {0} and set(side[opacity].tolist()) == {1}
    assert set(zone[opacity].tolist()) == {0} and set(zone[effusion].tolist()) == {NOTHING}
    assert set(degree[effusion].tolist()) == {1} and set(degree[opacity].tolist()) == {NOTHING}
    reader = PatchReader(8)
    features = torch.zeros(2, labels.kind.shape[1], 8)
    losses = [reader(features, labels), reader(features[1:], patch_labels([chest()]))]
    assert all(torch.isfinite(loss) and loss.item() > 0 for loss in losses)


def test_places_are_marked_so_that_sides_can_be_read() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    size = {"image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": 1}
    tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=192, num_attention_heads=6, **size))
    weight = tower.get_parameter("embeddings.position_embedding.weight")

    def apart(axis: int) -> float:
        """How far the means of the two halves of the picture lie apart."""
        one, other = weight[1:].detach().unflatten(0, (SIZE // PATCH, -1)).chunk(2, dim=axis)
        return float((one.mean((0, 1)) - other.mean((0, 1))).norm())

    faint = apart(0), apart(1)
    mark_places(tower)
    assert apart(0) > 5 * faint[0] and apart(1) > 5 * faint[1]
    assert apart(0) == pytest.approx(apart(1), rel=0.2), "left and right as clearly as up and down"
