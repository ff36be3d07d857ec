"""How many collages a second, against the obvious Pillow loop, from pictures that are in memory?

    python benchmarks/collages.py [--count 10000] [--pictures 400] [--threads 2] [--json OUT]

Both sides make the same collages (sizes in MIA-DPO's proportions) of the same decoded photographs-sized pictures and
encode them as JPEG; pixels are compared on a sample before anything is timed. The loop does what scripts do: a white
canvas, every picture resized and pasted, every label drawn, file encoded. Ours keeps pictures at cell size (bounded by
`--kept-mib`) and labelled canvases, and uses threads, for resizing and encoding leave the interpreter's lock. Memory is
each side's peak resident size in a process of its own. A third number is ours on one thread.
"""

from __future__ import annotations

import io
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import command_line, in_own_process, peak_mib
from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import label_font
from mmpo.data.layouts.geometry import canvas_size, grid_shape
from mmpo.data.layouts.mixing import COLLAGE_MIX, quotas
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json

QUALITY = 75


def pictures(count: int) -> list[Image.Image]:
    """Smooth random pictures of 640 x 480 and 480 x 640, decoded."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        size = (640, 480) if number % 3 else (480, 640)
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        found.append(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return found


def planned(count: int, pool: int) -> list[list[int]]:
    """Which pictures each collage shows."""
    rng = random.Random(0)
    sizes = quotas(count, COLLAGE_MIX)
    rng.shuffle(sizes)
    return [rng.sample(range(pool), size) for size in sizes]


def naive(shown: list[Image.Image]) -> Image.Image:
    """One collage the obvious way."""
    rows, columns = grid_shape(len(shown))
    canvas = Image.new("RGB", canvas_size(len(shown)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, picture in enumerate(shown):
        i, j = divmod(number, columns)
        scale = 448 / max(picture.size)
        size = (int(picture.width * scale), int(picture.height * scale))
        draw.text((j * 488 + 20, i * 488), f"Image{number + 1}", fill="black", font=label_font())
        canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (j * 488, i * 488 + 40))
    assert rows * columns == len(shown)
    return canvas


def encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def run(side: str, count: int, pool: int, threads: int, kept_mib: int) -> dict[str, Any]:
    """One side: seconds, bytes written, peak memory of this process in MiB and what of it was there before."""
    cached = pictures(pool)
    plan = planned(count, pool)
    composer = Composer(kept_mib)
    composer.collage(cached[:2])  # fonts and libraries are loaded
    before = peak_mib()

    def make(numbers: list[int]) -> int:
        shown = [cached[number] for number in numbers]
        picture = naive(shown) if side == "naive" else composer.collage(shown, numbers).picture
        return len(encoded(picture))

    started = time.perf_counter()
    if threads == 1:
        written = sum(map(make, plan))
    else:
        with ThreadPoolExecutor(threads) as workers:
            written = sum(workers.map(make, plan))
    seconds = time.perf_counter() - started
    peak = peak_mib()
    return {
        "side": side, "threads": threads, "collages": count, "seconds": round(seconds, 2),
        "collages_per_second": round(count / seconds, 1),
        "pictures_per_second": round(sum(map(len, plan)) / seconds, 1),
        "written_mib": round(written / 2**20, 1), "peak_mib": round(peak), "added_mib": round(peak - before),
    }  # fmt: skip


def same_pixels(pool: int) -> bool:
    """Whether both sides agree on collages of every size."""
    cached = pictures(pool)
    composer = Composer(64)
    plan = [list(range(size)) for size in COLLAGE_MIX]
    for numbers in plan:
        shown = [cached[number] for number in numbers]
        if not np.array_equal(naive(shown), composer.collage(shown, numbers).picture):
            return False
    return True


def main() -> None:
    parser = command_line(__doc__, threads=2)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--kept-mib", type=int, default=256)
    parser.add_argument("--side", choices=("naive", "ours"), help="internal: one side in this process")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args.side, args.count, args.pictures, args.threads, args.kept_mib)))
        return
    assert same_pixels(max(args.pictures, 9)), "the two sides draw different pictures"
    rows = []
    for side, threads in (("naive", 1), ("ours", 1), ("ours", args.threads)):
        words = ["--side", side, "--threads", str(threads), "--count", str(args.count)]
        words += ["--pictures", str(args.pictures), "--kept-mib", str(args.kept_mib)]
        rows.append(in_own_process(__file__, words))
        print(rows[-1])
    base = rows[0]["collages_per_second"]
    for row in rows[1:]:
        print(f"ours on {row['threads']} thread(s): {row['collages_per_second'] / base:.2f} times the loop")
    if args.json:
        write_json(args.json, {"rows": rows, "same_pixels": True})


if __name__ == "__main__":
    in_one_line(main)
