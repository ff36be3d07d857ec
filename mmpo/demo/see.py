"""First stage of training the demo model: teach the vision tower alone which object covers which patch.

From scratch, end to end, a model this small learns the language of captions long before it learns to look. A dense
label per patch is a far stronger signal than a caption: within minutes most patches are named rightly, and the heads
are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mmpo.demo.architecture import IMAGE_TOKENS, PATCH
from mmpo.demo.drawing import SIZE
from mmpo.demo.scene import Scene, SceneKind, sample_scene
from mmpo.demo.things import COLORS, THINGS

BACKGROUND = len(THINGS)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def training_scene(seed: tuple[int, ...]) -> Scene:
    """A scene of the training mix: half usual, the rest spread over the other kinds so that every object is seen
    everywhere.
    """
    draw = np.random.default_rng((*seed, 2)).random()
    kind: SceneKind = "usual" if draw < 0.5 else "plain" if draw < 0.8 else "unusual"
    return sample_scene(seed, kind)


def pixels(scenes: list[Scene]) -> Tensor:
    """Normalised pictures [scenes, 3, SIZE, SIZE], as the demo model's image processor makes them."""
    array = np.stack([np.asarray(scene.draw(), dtype=np.uint8) for scene in scenes])
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of every patch, both [IMAGE_TOKENS]; `BACKGROUND` and -100 where nothing covers a quarter of
    it.
    """
    side = SIZE // PATCH
    classes = np.full((side, side), BACKGROUND)
    colors = np.full((side, side), -100)
    covered = np.full((side, side), 0.25 * PATCH * PATCH)
    start = np.arange(side) * PATCH
    for item in scene.items:
        x, y, width, height = item.box
        across = np.clip(np.minimum(start + PATCH, x + width) - np.maximum(start, x), 0, None)
        down = np.clip(np.minimum(start + PATCH, y + height) - np.maximum(start, y), 0, None)
        area = down[:, None] * across[None, :]
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
    report: Callable[[int, dict[str, float]], None] = lambda step, numbers: None,
) -> float:
    """Trains `tower` in place and returns the share of object patches named rightly over the last 50 batches."""
    torch.manual_seed(seed)
    namer = PatchNamer(tower).train()
    optimizer = torch.optim.AdamW(namer.parameters(), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.08)
    weight = torch.ones(len(THINGS) + 1)
    weight[BACKGROUND] = 0.3
    recent: list[float] = []
    began = time.monotonic()
    for step in range(steps):
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
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(namer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        named = class_logits.argmax(-1)
        is_object = classes != BACKGROUND
        recent = [*recent[-49:], float((named == classes)[is_object].float().mean())]
        if step % 50 == 49 or step + 1 == steps:
            report(
                step + 1,
                {"loss": loss.item(), "patches": sum(recent) / len(recent), "seconds": time.monotonic() - began},
            )
    assert class_logits.shape[1] == IMAGE_TOKENS
    return sum(recent) / len(recent)
