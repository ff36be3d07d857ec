"""Reports in which nothing had to be edited, kept to be learnt as they are (supervised fine-tuning).

Pairs alone only push references down; a share of reports without any, learnt beside the pairs, holds the clinical
content. They are written as LLaVA conversations, which the trainer's `auxiliary.data` reads:

    unedited/
      unedited.json    [{"id", "image", "conversations": [the prompt, the report]}, …]
      00000.png …      their films
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpo.errors import Quarantined
from mmpo.files.atomic import write_bytes, write_json
from mmpo.radiology.films import film
from mmpo.radiology.reports import RadiologyReport

FOLDER, FILE = "unedited", "unedited.json"


def write_unedited(
    folder: Path, found: Iterable[tuple[RadiologyReport, Mapping[str, str]]], share: float, seed: int
) -> dict[str, int]:
    """Write a `share` of the reports (each drawn by its id and the seed alone) and return where all went. `found`
    holds each report with its `prompt` and `text`. The same reports give the same bytes."""
    counts = {"in": 0, "kept": 0, "not_drawn": 0, "film_gone": 0}
    rows: list[dict[str, Any]] = []
    for report, said in found:
        counts["in"] += 1
        if random.Random(f"{seed}/unedited/{report.id}").random() >= share:
            counts["not_drawn"] += 1
            continue
        try:
            picture = film(report.images[0], root=report.root)
        except Quarantined:  # it was there when the report was read
            counts["film_gone"] += 1
            continue
        kind = "png" if picture.startswith(b"\x89PNG") else "jpg"
        name = f"{len(rows):05d}.{kind}"
        write_bytes(folder / name, picture)
        turns = [{"from": "human", "value": f"<image>\n{said['prompt']}"}, {"from": "gpt", "value": said["text"]}]
        rows.append({"id": report.id, "image": name, "conversations": turns})
        counts["kept"] += 1
    write_json(folder / FILE, rows)
    return counts
