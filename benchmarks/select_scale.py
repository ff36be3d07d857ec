"""The memory and the time of a selection among many pairs.

    python benchmarks/select_scale.py [--rows 100000 1000000] [--folder DIR]

For each size it writes a folder of pairs (short texts, a picture of 2 kB each, two scores), selects among them in a
process of its own, and prints the peak of its memory before and after, time, and counts. Numbers of a pair are kept (8
bytes a column), and ids while the new folder is written; texts and pictures are streamed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import MEMORY_RETURNED, command_line, in_own_process, peak_mib
from mmpo.data.pair import PreferencePair
from mmpo.data.rows import pair_schema, to_row
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json

BLOCK = 4096
SCORES = ("chosen", "rejected")
BY = [{"dual_margin": {"implicit": False, "keep": 0.1}}, "length_balance"]


def write_many(folder: Path, rows: int) -> None:
    """`rows` pairs in shards of BLOCK rows: one block of texts and pictures again and again, other ids and scores."""
    random = np.random.default_rng(0)
    cells = [
        to_row(
            PreferencePair.simple(
                id="",
                image=random.bytes(2000),
                question="What is in the picture?",
                chosen="A dog lies on a mat" + " there" * int(random.integers(0, 8)) + ".",
                rejected=f"{number} dogs lie on a mat" + " here" * int(random.integers(0, 6)) + ".",
                scores=dict.fromkeys(SCORES, 0.0),
            ),
            SCORES,
        )
        for number in range(BLOCK)
    ]
    block = pa.Table.from_pylist(cells, schema=pair_schema(SCORES))
    (folder / "data").mkdir(parents=True)
    for number, start in enumerate(range(0, rows, BLOCK)):
        count = min(BLOCK, rows - start)
        table = block.slice(0, count)
        ids = pa.array([f"pair-{start + place}" for place in range(count)])
        scores = pa.StructArray.from_arrays(
            [pa.array(random.normal(1.0, 3.0, count)), pa.array(np.zeros(count))], names=list(SCORES)
        )
        table = table.set_column(0, table.schema.field("id"), ids)
        table = table.set_column(table.schema.get_field_index("scores"), table.schema.field("scores"), scores)
        pq.write_table(table, folder / "data" / f"train-{number:05d}.parquet", row_group_size=32)


def select_once(folder: Path, out: Path) -> dict[str, float]:
    """MiB of peak memory `before` and `after`, `seconds`, processor `cpu_seconds`, and the counts."""
    from mmpo.select.run import select
    from mmpo.select.settings import select_settings

    before, started, used = peak_mib(), time.monotonic(), time.process_time()
    result = select(select_settings().model_validate({"pairs": str(folder), "by": BY}), out)
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    return {"before": before, "after": peak_mib(), "seconds": seconds, "cpu_seconds": cpu, **result.counts["pairs"]}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the folders are written; a temporary one by default")
    parser.add_argument("--select", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.select:
        print(json.dumps(select_once(*given.select)))
        return
    figures = {}
    for rows in given.rows:
        place = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            write_many(place / "pairs", rows)
            words = ["--select", str(place / "pairs"), str(place / "out")]
            figures[rows] = found = in_own_process(__file__, words, MEMORY_RETURNED)
            told = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
            print(f"{rows:,} pairs: {told}", flush=True)
        finally:
            shutil.rmtree(place)
    if given.json:
        write_json(given.json, figures)


if __name__ == "__main__":
    in_one_line(main)
