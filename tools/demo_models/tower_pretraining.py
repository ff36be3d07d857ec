"""First stage of training the demo model: teach the vision tower alone which object covers which patch.

From scratch, end to end, a model this small learns the language of captions long before it learns to look. A dense
label per patch is a far stronger signal than a caption: within minutes most patches are named rightly, and the heads
are thrown away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mmpo.demo.drawing import SIZE
from mmpo.demo.scene import SIDES, Scene, SceneKind, sample_scene
from mmpo.demo.things import COLORS, THINGS
from tools.demo_models.architecture import PATCH

BACKGROUND = len(THINGS)
NOTHING = -100
"""The label of a question that a patch has no answer to."""
_THING_WEIGHTS = torch.tensor([1.0] * len(THINGS) + [0.3])
"""A patch of the background counts for 0.3 of another."""
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def training_scene(seed: tuple[int, ...]) -> Scene:
    """A scene of the training mix: near half of them usual, the rest spread over the other kinds so that every object
    is seen everywhere, and two or three of it as often as one.
    """
    draw = np.random.default_rng((*seed, 2)).random()
    kind: SceneKind = "usual" if draw < 0.45 else "plain" if draw < 0.57 else "unusual" if draw < 0.7 else "counted"
    return sample_scene(seed, kind)


class Drawable(Protocol):
    """Something that draws itself, RGB, `SIZE` x `SIZE`."""

    def draw(self) -> Image.Image: ...


def pixels(pictures: Sequence[Drawable]) -> Tensor:
    """Normalised pictures [pictures, 3, SIZE, SIZE], as the demo models' image processors make them."""
    array = np.stack([np.asarray(picture.draw(), dtype=np.uint8) for picture in pictures])
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def patch_areas(box: tuple[int, int, int, int]) -> np.ndarray:
    """The number of pixels of each patch that the box (x, y, width, height) covers [rows, columns]."""
    x, y, width, height = box
    start = np.arange(SIZE // PATCH) * PATCH
    across = np.clip(np.minimum(start + PATCH, x + width) - np.maximum(start, x), 0, None)
    down = np.clip(np.minimum(start + PATCH, y + height) - np.maximum(start, y), 0, None)
    return np.asarray(down[:, None] * across[None, :])


@dataclass(frozen=True)
class PatchLabels:
    """Labels of the patches, all [..., IMAGE_TOKENS] of int64; `NOTHING` where a question has no answer.

    things: index into `THINGS`, `BACKGROUND` where nothing covers a quarter of the patch; colors: index into `COLORS`;
    sides: index into `SIDES`, of the covering item; counts: how many of that thing are in the picture, less one;
    ranks: how many of that thing are to the left of the covering item; centers: is it the patch of an item's centre?
    """

    things: Tensor
    colors: Tensor
    sides: Tensor
    counts: Tensor
    ranks: Tensor
    centers: Tensor


def patch_labels(scenes: Sequence[Scene]) -> PatchLabels:
    """The labels of every patch of `scenes`, [scenes, IMAGE_TOKENS] each."""
    labels = np.stack([_scene_labels(scene) for scene in scenes])
    return PatchLabels(*torch.from_numpy(labels).unbind(1))


def _scene_labels(scene: Scene) -> np.ndarray:
    """The six kinds of label of one scene, in the order of `PatchLabels` [6, IMAGE_TOKENS]."""
    side = SIZE // PATCH
    labels = np.full((6, side, side), NOTHING)
    labels[0], labels[5] = BACKGROUND, 0
    covered = np.full((side, side), 0.25 * PATCH * PATCH)
    seen: Counter[str] = Counter()
    for item in scene.items:
        area = patch_areas(item.box)
        mine = area > covered
        color = list(COLORS).index(item.color) if item.color else NOTHING
        facts = (THINGS.index(item.thing), color, SIDES.index(item.side), scene.count(item.thing) - 1, seen[item.thing])
        for kind, fact in enumerate(facts):
            labels[kind][mine] = fact
        seen[item.thing] += 1
        covered = np.maximum(covered, area)
        x, y, width, height = item.box
        labels[5, int(y + height / 2) // PATCH, int(x + width / 2) // PATCH] = 1
    return labels.reshape(6, -1)


class PatchReader(nn.Module):
    """Linear heads that read off patch features what each patch shows.

    To count, a patch must know what it shows before it can look for its like. So the heads for class and centre also
    read the middle layer: the layers above are then free to compare patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(THINGS) + 1 + 2))
        self.sizes = {"things": len(THINGS) + 1, "colors": len(COLORS), "sides": 3, "counts": 3, "ranks": 3}
        self.late = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes.values())))

    def forward(self, middle: Tensor, last: Tensor, labels: PatchLabels) -> Tensor:
        """The loss of both layers' features, [images, tokens, width] each."""
        early = self.early(middle).float()
        loss = 0.5 * surprise(early[..., :-2], labels.things, _THING_WEIGHTS)
        loss = loss + 0.5 * surprise(early[..., -2:], labels.centers, balance(labels.centers, 2))
        for kind, scores in self._read(last).items():
            truth = getattr(labels, kind)
            share, weight = 0.3, None
            if kind == "things":
                share, weight = 1.0, _THING_WEIGHTS
            elif kind in ("counts", "ranks"):
                share, weight = 0.6 if kind == "counts" else 0.3, balance(truth, 3)
            loss = loss + share * surprise(scores, truth, weight)
        return loss

    @torch.no_grad()
    def right(self, last: Tensor, labels: PatchLabels) -> dict[str, float]:
        """The share of object patches of which each head is right; of the numbers also one by one."""
        found: dict[str, float] = {}
        for kind, scores in self._read(last).items():
            truth = getattr(labels, kind)
            known = (labels.things != BACKGROUND) & (truth != NOTHING)
            hit = (scores.argmax(-1) == truth).float()
            found[kind] = float(hit[known].mean())
            if kind == "counts":
                found |= {f"of {n + 1}": float(hit[known & (truth == n)].mean()) for n in range(3)}
        return found

    def _read(self, last: Tensor) -> dict[str, Tensor]:
        parts = self.late(last).float().split(list(self.sizes.values()), dim=-1)
        return dict(zip(self.sizes, parts, strict=True))


def surprise(scores: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of scores [..., answers] over the patches that have an answer [...], each by the `weight` of
    its answer [answers]; 0 where none has."""
    if not (truth != NOTHING).any():
        return scores.sum() * 0  # nothing in colour in a small batch
    return nn.functional.cross_entropy(scores.flatten(0, -2), truth.flatten(), weight, ignore_index=NOTHING)


def balance(truth: Tensor, answers: int) -> Tensor:
    """Weights by which every answer counts alike in sum [answers]."""
    rare = 1 / torch.bincount(truth[truth != NOTHING], minlength=answers).clamp(min=1).float()
    return rare / rare.mean()


def read_patches(tower: CLIPVisionModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the patches after the middle layer and after the last, [images, tokens, width] each."""
    states = tower(images, output_hidden_states=True).hidden_states
    return states[len(states) // 2][:, 1:], states[-1][:, 1:]
