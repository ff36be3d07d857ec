"""The demo's names in recipes: `${demo.world}`, a folder of annotated images, and `${demo.model}`, a small model.

A run whose recipe names splits of the world (`${demo.world}/train`) gets them drawn into its folder first, as a step
like the others. Only the command line knows the demo; below it a recipe's demo is made of ordinary folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from mmpo.pipeline import section_settings
from mmpo.recipes import Recipe
from mmpo.runs import RunFolder

WORLD = "world"
"""The step that draws it, and its folder in the run."""

SPLITS = {
    "train": 600, "dev": 60, "test": 300, "test_unusual": 100, "radiology_train": 300, "radiology_test": 200,
    "video_train": 60, "video_test": 80,
}  # fmt: skip
"""Images (or clips) of each split. The splits of one seed share no scene."""

QUICK_SPLITS = {
    "train": 60, "dev": 20, "test": 30, "test_unusual": 20, "radiology_train": 30, "radiology_test": 20,
    "video_train": 8, "video_test": 6,
}  # fmt: skip


@dataclass
class DemoWorld:
    """Gives recipes the demo's names, and draws what a recipe uses. `splits`: how many images (or clips) each has."""

    splits: dict[str, int] = field(default_factory=lambda: dict(SPLITS))

    @staticmethod
    def names(run: Path) -> dict[str, Callable[[], str]]:
        """The values of `${demo.world}`, `${demo.model}` and the other models for a run in the folder `run`."""

        def shipped(module: str) -> Callable[[], str]:
            return lambda: str(import_module(module).model_path())

        return {
            "demo.world": lambda: str(run / WORLD),
            "demo.model": shipped("mmpo.demo"),
            "demo.radiology_model": shipped("mmpo.demo.radiology"),
            "demo.video_model": shipped("mmpo.demo.video"),
        }

    def draw(self, run: RunFolder, recipe: Recipe) -> None:
        """Draw the splits that the recipe names into the run folder, unless they are there."""
        named = set()
        for section in recipe.sections():
            values = str(section_settings(recipe, section))
            named |= set(re.findall(re.escape(str(run.path / WORLD)) + r"/(\w+)", values))
        splits = {split: images for split, images in self.splits.items() if split in named}
        if not splits:
            return

        def work() -> dict[str, int]:
            from mmpo.demo.radiology.world import write_split as write_films
            from mmpo.demo.video.world import write_split as write_clips
            from mmpo.demo.world import write_split

            writers = {"radiology": write_films, "video": write_clips}
            for split, images in splits.items():
                write = writers.get(split.partition("_")[0], write_split)
                write(run.path / WORLD / split, split, images, recipe.seed)
            return splits

        run.step(WORLD).do({"seed": recipe.seed, "splits": splits}, work)
