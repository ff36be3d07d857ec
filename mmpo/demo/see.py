"""First stage of training the demo model: teach the vision tower alone which object covers which patch.

From scratch, end to end, a model this small learns the language of captions long before it learns to look. A dense
label per patch is a far stronger signal than a caption: within minutes most patches are named rightly, and the heads
are thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mmpo.demo.architecture import PATCH
from mmpo.demo.drawing import SIZE
from mmpo.demo.scene import Scene, SceneKind, sample_scene
from mmpo.demo.things import COLORS, THINGS
from mmpo.demo.training import Report, fit

BACKGROUND = len(THINGS)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def training_scene(seed: tuple[int, ...]) -> Scene:
    """A scene of the training mix: half usual, the rest spread over the other kinds so that every object is seen
    everywhere.
    """
    draw = np.random.default_rng((*seed, 2)).random()
    kind: SceneKind = "usual" if draw < 0.5 else "plain" if draw < 0.8 else "unusual"
    return sample_scene(seed, kind)


class Drawable(Protocol):
    """Something that draws itself, RGB, `SIZE` x `SIZE`."""

    def draw(self) -> Image.Image: ...


def pixels(pictures: Sequence[Drawable]) -> Tensor:
    """Normalised pictures [pictures, 3, SIZE, SIZE], as the demo models' image processors make them."""
    array = np.stack([np.asarray(picture.draw(), dtype=np.uint8) for picture in pictures])
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def patch_areas(box: tuple[int, int, int, int]) -> np.ndarray:
    """How many pixels of each patch the box (x, y, width, height) covers [rows, columns]."""
    x, y, width, height = box
    start = np.arange(SIZE // PATCH) * PATCH
    across = np.clip(np.minimum(start + PATCH, x + width) - np.maximum(start, x), 0, None)
    down = np.clip(np.minimum(start + PATCH, y + height) - np.maximum(start, y), 0, None)
    return np.asarray(down[:, None] * across[None, :])


def patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of every patch, both [IMAGE_TOKENS]; `BACKGROUND` and -100 where nothing covers a quarter of
    it.
    """
    side = SIZE // PATCH
    classes = np.full((side, side), BACKGROUND)
    colors = np.full((side, side), -100)
    covered = np.full((side, side), 0.25 * PATCH * PATCH)
    for item in scene.items:
        area = patch_areas(item.box)
        mine = area > covered
        classes[mine] = THINGS.index(item.thing)
        colors[mine] = list(COLORS).index(item.color) if item.color else -100
        covered = np.maximum(covered, area)
    return classes.reshape(-1), colors.reshape(-1)


class PatchNamer(nn.Module):
    """The tower with two linear heads on its patch features: object class and colour."""

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.tower = tower
        width = tower.config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, len(THINGS) + 1)
        self.colors = nn.Linear(width, len(COLORS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [images, IMAGE_TOKENS, classes] and [images, IMAGE_TOKENS, colours]."""
        features = self.norm(self.tower(images).last_hidden_state[:, 1:])
        return self.classes(features), self.colors(features)


def train_tower(
    tower: CLIPVisionModel,
    *,
    steps: int,
    batch: int,
    seed: int,
    learning_rate: float = 1e-3,
    report: Report = lambda step, loss, seconds: None,
) -> float:
    """Trains `tower` in place and returns the share of object patches named rightly over the last 50 batches."""
    torch.manual_seed(seed)
    namer = PatchNamer(tower).train()
    parameters = list(namer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.08)
    weight = torch.ones(len(THINGS) + 1)
    weight[BACKGROUND] = 0.3
    named: deque[float] = deque(maxlen=50)

    def loss_of(step: int) -> Tensor:
        scenes = [training_scene((seed, 1, step * batch + i)) for i in range(batch)]
        labels = [patch_labels(scene) for scene in scenes]
        classes = torch.from_numpy(np.stack([c for c, _ in labels]))
        colors = torch.from_numpy(np.stack([c for _, c in labels]))
        with torch.autocast("cpu", torch.bfloat16):
            class_logits, color_logits = namer(pixels(scenes))
        loss = nn.functional.cross_entropy(
            class_logits.float().reshape(-1, len(THINGS) + 1), classes.reshape(-1), weight
        )
        if (colors >= 0).any():
            loss = loss + 0.3 * nn.functional.cross_entropy(
                color_logits.float().reshape(-1, len(COLORS)), colors.reshape(-1)
            )
        is_object = classes != BACKGROUND
        named.append(float((class_logits.argmax(-1) == classes)[is_object].float().mean()))
        return loss

    fit(loss_of, parameters, optimizer, schedule, range(steps), report)
    return sum(named) / len(named)
