"""Small pairs, and a build of them with broken sources in it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.data.card import Counts
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.errors import Quarantined
from mmpo.files.images import encode_image

RECIPE = {"method": "hallucination", "seed": 3, "where": Path("images")}


def picture(number: int) -> bytes:
    return encode_image(Image.new("RGB", (8, 6), (number % 256, 7, 7)))


def make_pair(number: int, **changes: Any) -> PreferencePair:
    pair = PreferencePair.simple(
        id=f"pair-{number}",
        image=picture(number),
        question="What is there?",
        chosen=f"There are {number} dogs.",
        rejected=f"There are {number} cats — çats.",
        rejected_weights=[{"start": 0, "end": 5, "weight": 0.5}],
        scores={"margin": number / 4},
        provenance={"builder": "test", "seed": 3, "sources": [f"s{number}"], "filters": [], "claims": {"n": number}},
    )
    return replace(pair, **changes)


def build(folder: Path, sources: int = 60, rows: int = 8) -> Counts:
    """Every 5th source is broken, every 7th gives two pairs, the last four give none."""
    with PairWriter(folder, rows_per_shard=rows, recipe=RECIPE) as writer:
        for number in islice(range(sources), writer.sources_done, None):
            if number % 5 == 2 or number >= sources - 4:
                writer.reject(
                    f"s{number}", Quarantined("decode", "truncated" if number % 2 else "missing", f"{number}")
                )
            elif number % 7 == 0:
                writer.add(make_pair(number), make_pair(1000 + number))
            else:
                writer.add(make_pair(number))
        return writer.counts


def files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
