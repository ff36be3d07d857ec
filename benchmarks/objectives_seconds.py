"""Seconds a step of one objective, trained alone on one core: the pass `--time` of `objectives_table.py`."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import cells
from mmpo.files.atomic import read_json, write_json

STEPS, COUNTED = 12, 8
"""Steps that are trained, and how many of them, the last ones, count: the first ones pay for what is made once."""
QUICK_STEPS, QUICK_COUNTED = 3, 2


def file_of(out: Path, seed: int, name: str) -> Path:
    return out / f"seed-{seed}" / "seconds" / f"{name}.json"


def timed(file: Path, name: str, train: Mapping[str, Any], *, quick: bool) -> dict[str, Any]:
    """Train the few steps without evaluation and keep the median in `file`; nothing else stays. `load` is that of the
    machine in the minute before: at more than the cores that it has the seconds are too many."""
    steps, counted = (QUICK_STEPS, QUICK_COUNTED) if quick else (STEPS, COUNTED)
    own = {"max_steps": steps, "logging_steps": 1, "eval_fraction": 0.0, "save_steps": None}
    shutil.rmtree(file.parent / "train" / name, ignore_errors=True)  # of a pass that was killed
    cells.Cell(name, {**train, **own}).trained(file.parent)
    run = file.parent / "train" / name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    pairs = int(train["batch_size"])
    each = [pairs / row["pairs_per_second"] for row in rows if "pairs_per_second" in row]
    found = {
        "seconds_a_step": statistics.median(each[-counted:]),
        "steps": [round(one, 4) for one in each],
        "load": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }
    write_json(file, found)
    shutil.rmtree(run)
    return found


def alone(out: Path, seed: int, names: list[str]) -> dict[str, float]:
    """The seconds of those that were timed."""
    files = {name: file_of(out, seed, name) for name in names}
    return {name: float(read_json(file)["seconds_a_step"]) for name, file in files.items() if file.exists()}
