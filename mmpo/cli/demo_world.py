"""What recipes may name of the demo: `${demo.world}`, a folder of annotated images, and `${demo.model}`, a small model.

A run whose recipe names the world gets it written into its folder first, as a step like the others. Only the command
line knows the demo; below it a recipe's demo is made of ordinary folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmpo.progress import track
from mmpo.runs import RunFolder

SPLITS = {"train": 600, "dev": 60, "test": 200, "test_unusual": 100}
"""Images of each split. The splits of one seed share no scene."""

QUICK = {"train": 120, "dev": 20, "test": 40, "test_unusual": 20}
"""The same for `mmpo demo --quick`: to see that everything works, not to measure."""


@dataclass
class DemoInputs:
    """Gives recipes the demo's names, notes which were used, and writes the world if it was."""

    splits: dict[str, int] = field(default_factory=lambda: dict(SPLITS))
    _world_used: bool = False

    def names(self, run: Path) -> dict[str, Callable[[], str]]:
        def world() -> str:
            self._world_used = True
            return str(run / "world")

        def model() -> str:
            from mmpo.demo import model_path

            return str(model_path())

        return {"demo.world": world, "demo.model": model}

    def prepare(self, run: RunFolder, seed: int) -> None:
        """Write the world into the run folder, if the recipe names it and it is not there."""
        if not self._world_used:
            return

        def write() -> dict[str, int]:
            from mmpo.demo.world import write_split

            for split in track(list(self.splits), "drawing the demo world"):
                write_split(run.path / "world" / split, split, self.splits[split], seed)
            return dict(self.splits)

        run.step("world").do({"seed": seed, "splits": self.splits}, write)
