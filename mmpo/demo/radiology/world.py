"""The radiology world as files: films and reports, in splits that share no chest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmpo.demo.radiology.chests import Chest, sample_chest
from mmpo.demo.radiology.dictation import dictated_report, exact_report
from mmpo.errors import UserError
from mmpo.files.atomic import write_bytes, write_text
from mmpo.files.images import encode_image
from mmpo.progress import track

SPLITS = {"radiology_train": 201, "radiology_test": 203}
"""The number seeds the split; the model's own training chests have another (see `pretrain.py`)."""


def world_split(split: str, n: int, seed: int = 0) -> Iterator[Chest]:
    """The first `n` chests of a split; `seed` picks another world with the same rules."""
    if split not in SPLITS:
        raise UserError(f"the radiology world has no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    for index in range(n):
        yield sample_chest((seed, SPLITS[split], index))


def write_split(folder: str | Path, split: str, n: int, seed: int = 0) -> Path:
    """Write `n` synthetic films of `split` into `folder`: `images/*.png` and `reports.jsonl`.

    Reports of the training split are dictated, with references to earlier exams; those of the test split are exact.
    """
    out = Path(folder)
    (out / "images").mkdir(parents=True, exist_ok=True)
    write = exact_report if split == "radiology_test" else dictated_report
    rows = []
    for index, chest in track(enumerate(world_split(split, n, seed)), f"draw {split}", n):
        name = f"images/{split}_{index:05d}.png"
        write_bytes(out / name, encode_image(chest.draw()))
        report = "FINDINGS: " + write(chest, np.random.default_rng((*chest.seed, 5)))
        findings = [" ".join(filter(None, (f.degree, f.side, f.zone, f.kind))) for f in chest.findings]
        rows.append(
            {
                "id": Path(name).stem,
                "patient": f"synthetic{index:05d}",
                "image": name,
                "report": report,
                "findings_drawn": findings,
                "synthetic": True,
            }
        )
    write_text(out / "reports.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return out
