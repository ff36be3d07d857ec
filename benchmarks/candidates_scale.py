"""The memory and the time of tables of candidates, and of makers, with many pictures.

    python benchmarks/candidates_scale.py [--pictures 1000 10000] [--makers best_worst edited] [--folder DIR]

For each size it writes a folder of candidates in a process of its own: ten made-up responses a picture with verdicts,
no model. Then each maker makes pairs of it, in a process of its own. It prints peaks of memory (MiB), seconds and
counts. All pictures are one file under many names, so what is measured is tables, makers and guards, not decoding.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import MEMORY_RETURNED, command_line, in_own_process, peak_mib
from mmpo.data.image_digests import pixel_digest
from mmpo.data.photos import SeenPhoto
from mmpo.data_builders.candidates.judging import judged_picture
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.candidates.responding import mentions_in
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.candidates.tables import CandidateTables, write_candidates_card, write_tables
from mmpo.data_builders.units import check_sums
from mmpo.errors import in_one_line
from mmpo.evidence.records import CombinedOpinion, Opinion, Presence
from mmpo.files.atomic import write_json
from mmpo.files.images import load_image
from mmpo.resuming import deciding
from mmpo.text.vocabulary import coco

SAMPLES = 10
PER_SHARD = 64
FILLER = "The light is soft and the colours are warm."


def pictures(number: int, key: str) -> Iterator[JudgedPicture]:
    """Pictures of which three classes are there, three are not and one is uncertain; each response names three."""
    vocabulary = coco()
    names = sorted(vocabulary.names)
    for place in range(number):
        draw = random.Random(place)
        own = draw.sample(names, 7)
        verdicts: dict[str, Presence] = dict(
            zip(own, ["present"] * 3 + ["absent"] * 3 + ["uncertain"], strict=True)  # type: ignore[list-item]
        )
        said = []
        for sample in range(SAMPLES):
            text = " ".join(f"There is a {name}." for name in draw.sample(own[:6], 3)) + f" {FILLER}" * (sample % 2)
            mentions = tuple(mentions_in(text, vocabulary))
            named = {mention.name for mention in mentions}
            verdicts |= {name: "uncertain" for name in named - verdicts.keys()}
            said.append(Candidate("Describe the image.", 0, sample, text, False, len(text.split()), mentions))
        opinions = {
            name: CombinedOpinion(name, verdict, None, {"self": Opinion(verdict, 0.5)})
            for name, verdict in verdicts.items()
        }
        path = f"{place:06d}.png"
        yield judged_picture(path, SeenPhoto(key, "0" * 64, 32, 24), path, said, opinions)


def write_folder(folder: Path, number: int) -> dict[str, float]:
    """Photos and tables of `number` pictures; peaks and seconds of writing the tables."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    first = photos / "000000.png"
    Image.effect_mandelbrot((32, 24), (-2, -1, 1, 1), 50).convert("RGB").save(first)
    for place in range(1, number):
        (photos / f"{place:06d}.png").hardlink_to(first)
    settings = CandidateSettings.model_validate(
        {"builder": "candidates", "model": "none", "images": str(photos), "evidence": [{"source": "self"}]}
    )
    before, started = peak_mib(), time.monotonic()
    write_tables(folder / "candidates", pictures(number, pixel_digest(load_image(first.read_bytes()))), PER_SHARD)
    facts: dict[str, Any] = {
        "pictures_per_shard": PER_SHARD, "root": str(photos), "settings": deciding(settings), "vocabulary": None,
        "evidence": {"calibrated": False, "sources": {"self": {}}, "overlaps": [], "warnings": []},
    }  # fmt: skip
    write_candidates_card(folder / "candidates", facts, "# Made up\n")
    seconds = time.monotonic() - started
    rows = sum(len(one.candidates) for one in CandidateTables(folder / "candidates"))
    return {"before": before, "after": peak_mib(), "seconds": seconds, "candidates": rows}


def make_pairs(folder: Path, maker: str) -> dict[str, float]:
    """Pairs of the folder by a maker; peaks, seconds and counts, which must add up."""
    from mmpo.data_builders.from_candidates.build import PairsFromCandidates
    from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings
    from mmpo.data_builders.run import run

    settings = PairsFromCandidatesSettings.model_validate(
        {
            "builder": "pairs_from_candidates",
            "candidates": str(folder / "candidates"),
            "pairs": {"maker": maker, "guards": {"refuse_style": None}},
        }
    )
    before, started = peak_mib(), time.monotonic()
    result = run(settings, folder / maker, PairsFromCandidates)
    seconds = time.monotonic() - started
    check_sums(result.counts)
    found = {"pictures": result.images, "with pairs": result.images_used, "pairs": result.pairs_made}
    return {"before": before, "after": peak_mib(), "seconds": seconds, **found}


def measured(number: int, makers: list[str], folder: Path) -> dict[str, dict[str, float]]:
    """The figures of `number` pictures: of the tables, and of each maker."""
    words = [("tables", ["--write", str(folder), str(number)])]
    words += [(maker, ["--make", str(folder), maker]) for maker in makers]
    return {name: in_own_process(__file__, own, MEMORY_RETURNED) for name, own in words}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--makers", nargs="+", default=["best_worst", "edited"])
    parser.add_argument("--folder", type=Path, help="where the folders are written; a temporary one by default")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write or given.make:
        folder, what = given.write or given.make
        print(json.dumps(write_folder(Path(folder), int(what)) if given.write else make_pairs(Path(folder), what)))
        return
    figures = {}
    for number in given.pictures:
        place = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            figures[number] = measured(number, given.makers, place)
            for name, found in figures[number].items():
                told = ", ".join(f"{key} {value:,.0f}" for key, value in found.items())
                print(f"{number:,} pictures, {name}: {told}", flush=True)
        finally:
            shutil.rmtree(place)
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    in_one_line(main)
