"""Run one training from a settings file and, if asked to, die of a real SIGKILL on the way.

python -m tests.faults.run_train settings.json run_dir           # to the end
python -m tests.faults.run_train settings.json run_dir step 17   # die after the 17th step, before it is logged or saved
python -m tests.faults.run_train settings.json run_dir save 2    # die half-way through the second torch.save
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from mmpo.progress import reporting
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.train import train


def die_in_save(number: int) -> None:
    save, calls = torch.save, [0]

    def dying(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(value, path, *args, **kwargs)
        calls[0] += 1
        if calls[0] == number:
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = dying  # type: ignore[assignment]


class DieAtStep:
    """A progress reporter that ends the process when so many steps are reported done."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.counting = False

    def begin(self, label: str, total: int | None) -> DieAtStep:
        self.counting = label == "training" or self.counting
        return self if label == "training" else DieAtStep(-1)

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.step -= steps if self.counting else 0
        if self.counting and self.step == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def extend(self, total: int | None) -> None:
        return None

    def close(self, *, finished: bool) -> None:
        return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings, run_dir = TrainSettings.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    how, number = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else ("", 0)
    if how == "save":
        die_in_save(number)
    with reporting(DieAtStep(number if how == "step" else -1)):
        train(settings, run_dir)
