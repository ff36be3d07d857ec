"""What are pairs from pictures without annotations worth, against pairs from the truth? The demo world, three seeds.

    python benchmarks/photos_demo.py --out runs/photos_demo [--seeds 0 1 2] [--cells …] [--quick]

The model describes 400 scenes a seed, greedily and by 9 samples. Its claims are judged by

    truth       the exact annotation of the scenes, complete
    self        the model's own answers, calibrated on 100 other scenes with truth
    oracle      NOT a detector: true boxes with errors at the rates --miss and --false, calibrated on the same scenes
                (benchmarks/noisy_oracle.py)
    agreement   `self` and the oracle; what they do not agree about is uncertain

and pairs are made of them: the cells edited_truth, edited_self, edited_oracle, edited_agreement (false claims edited
out of a description) and best_worst_truth, best_worst_agreement (two of the model's own), with the makers' default
guards; only the refusal of pairs whose style is plain is off, since a refused cell would have no row. Each cell trains
on as many pairs as the cell of its seed with the fewest has, drawn by seed: 120 steps of 16 by DPO, beta 0.1, LoRA of
rank 16. A cell with fewer than --least pairs is named, left out, and does not lower the others.

On 150 `test` and 150 `test_unusual` scenes, where what usually stands together is broken: CHAIR_i, CHAIR_s, recall,
Len (in tokens), POPE (adversarial) F1 and share of yes, untuned and of each cell, with 95% intervals over scenes; by
seeds mean and standard deviation. Also the pairs that a maker gave, by 1,000 scenes, and the number trained on.

A seed describes its scenes once and trains six adapters. Killed and run again it goes on, with other arguments it
refuses. Another choice of --cells changes the equal number of pairs: that is refused where a cell is trained already.
Writes results.json and table.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells, noisy_oracle
from mmpo.data.shards import PairWriter, read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings, PairsMade
from mmpo.demo import model_path
from mmpo.demo.things import THINGS
from mmpo.errors import in_one_line
from mmpo.files.atomic import read_json, write_json

CELLS: dict[str, tuple[str, str]] = {
    "edited_truth": ("edited", "truth"),
    "edited_self": ("edited", "self"),
    "edited_oracle": ("edited", "oracle"),
    "edited_agreement": ("edited", "agreement"),
    "best_worst_truth": ("best_worst", "truth"),
    "best_worst_agreement": ("best_worst", "agreement"),
}
"""Maker and evidence of each."""
METRICS: tuple[cells.Metric, ...] = (
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "F1", "adversarial"), ("pope", "yes_ratio", "adversarial"),
)  # fmt: skip
SPLITS = ("test", "test_unusual")


SOURCES = {
    "truth": ["annotations"],
    "self": ["self"],
    "oracle": ["noisy_oracle"],
    "agreement": ["self", "noisy_oracle"],
}
"""The labels of the sources that each kind of evidence believes."""


def candidates_of(args: argparse.Namespace, folder: Path, seed: int) -> Path:
    """The folder of the candidates of a seed, which all sources have judged; made once."""
    scenes, controls = cells.draw(folder, "train", args.images, seed), cells.draw(folder, "dev", args.controls, seed)
    files = [scenes / "annotations.jsonl", controls / "annotations.jsonl"]
    settings = CandidateSettings.model_validate({
        "builder": "candidates",
        "model": str(args.model),
        "images": scenes,
        "vocabulary": str(scenes / "vocabulary.json"),
        "samples": args.samples,
        "max_new_tokens": 96,
        "near_duplicates": False,
        "log_probs": False,
        "drawn": 0,
        "seed": seed,
        "evidence": [
            {"source": "annotations", "path": files[0], "complete": True, "classes": list(THINGS)},
            {"source": "self"},
            {"source": noisy_oracle.NAME, "truth": files, "miss": args.miss, "false": args.false, "seed": seed},
        ],
        "controls": {"annotations": files[1]},
        "precision": args.precision,
    })  # fmt: skip
    build(settings, folder / "candidates")
    return folder / "candidates" / "candidates"


def pairs_of(args: argparse.Namespace, folder: Path, cell: str, seed: int) -> int:
    """Make the pairs of a cell, once; how many there are."""
    maker, evidence = CELLS[cell]
    settings = PairsFromCandidatesSettings.model_validate({
        "builder": "pairs_from_candidates",
        "candidates": candidates_of(args, folder, seed),
        "pairs": {"maker": maker, "guards": {"refuse_style": None}},
        "sources": SOURCES[evidence],
        "seed": seed,
    })  # fmt: skip
    made = build(settings, folder / "build" / cell)
    assert isinstance(made, PairsMade)
    return made.pairs_made


def drawn(folder: Path, cell: str, number: int, seed: int) -> Path:
    """`number` pairs of a cell, drawn by seed; written once."""
    out = folder / "pairs" / cell
    done = folder / "pairs" / f"{cell}.json"
    if done.exists():
        if read_json(done)["pairs"] != number:
            raise SystemExit(f"{out} has not {number} pairs: other cells were compared; use another --out")
        return out
    shutil.rmtree(out, ignore_errors=True)
    pairs = list(read_pairs(folder / "build" / cell / "pairs"))
    kept = set(random.Random(f"{seed}/{cell}").sample(range(len(pairs)), number))
    with PairWriter(out, recipe={"of": cell, "drawn": number, "seed": seed}) as writer:
        for place, pair in enumerate(pairs):
            if place in kept:
                writer.add(pair)
    write_json(done, {"pairs": number})
    return out


def done(args: argparse.Namespace, folder: Path, seed: int, entry: dict[str, Any]) -> None:
    """All cells of a seed, into `entry`."""
    for cell in args.cells:
        entry["made"][cell] = pairs_of(args, folder, cell, seed)
        print(f"seed {seed}, {cell}: {entry['made'][cell]} pairs of {args.images} scenes", flush=True)
    enough = {cell: number for cell, number in entry["made"].items() if number >= max(args.least, 1)}
    entry["left_out"] = [cell for cell in args.cells if cell not in enough]
    entry["equal"] = equal = min(enough.values(), default=0)
    for cell in enough:
        settings = cells.equal_training(args, drawn(folder, cell, equal, seed), seed)
        settings |= {"objective": {"dpo": {"beta": args.beta}}, "eval_fraction": 0}
        result = cells.Cell(cell, settings).trained(folder)
        for split in SPLITS:
            wanted = cells.held_out(args, folder, seed, result["adapter"], ["chair", "pope"], split)
            wanted["pope"] = {"splits": ["adversarial"]}
            found = cells.measured(folder / "eval" / split, cell, wanted, METRICS)
            entry["cells"].setdefault(split, {})[cell] = found
        print(f"seed {seed}, {cell}: trained and measured", flush=True)


def table(results: Mapping[str, Any]) -> str:
    """Pairs by cell, then for each split what the model says, untuned and by cell."""
    names = [cell for cell in CELLS if any(cell in entry["made"] for entry in results["seeds"].values())]
    images = int(results["arguments"]["images"])
    lines = [
        f"| pairs of 1,000 scenes, seed | {' | '.join(names)} | trained on |",
        "| --- |" + " ---: |" * (len(names) + 1),
    ]
    for seed, entry in results["seeds"].items():
        made = [f"{1000 * entry['made'][cell] / images:.0f}" if cell in entry["made"] else "" for cell in names]
        lines.append(f"| {seed} | {' | '.join(made)} | {entry.get('equal', '')} |")
    for seed, entry in results["seeds"].items():
        if entry.get("left_out"):
            lines += ["", f"Seed {seed}: too few pairs, not trained: {', '.join(entry['left_out'])}."]
    text = "\n".join(lines) + "\n"
    for split in SPLITS:
        seeds = {seed: entry["cells"].get(split, {}) for seed, entry in results["seeds"].items()}
        if shown := cells.tables(seeds, list(CELLS)):
            text += f"\n**{split}**\n\n{shown}"
    return text


def main() -> None:
    parser = cells.command_line(__doc__)
    cells.add_sizes(parser, images=400, test=150, steps=120, beta=0.1, rate=1.5e-4)
    parser.set_defaults(batch_size=16)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--controls", type=int, default=100, help="other scenes with truth, to calibrate on")
    parser.add_argument("--precision", type=float, default=0.9, help="of verdicts, that controls must show")
    parser.add_argument("--samples", type=int, default=9, help="descriptions of a scene beside the greedy one")
    parser.add_argument("--least", type=int, default=32, help="pairs that a cell must have to be trained")
    parser.add_argument("--miss", type=float, default=0.1, help="share of true boxes that the noisy oracle misses")
    parser.add_argument("--false", type=float, default=0.05, help="share of absent classes it has a false box of")
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        cells.make_quick(args)
        args.controls, args.samples, args.least = 12, 2, 1
    given = cells.open_comparison(args.out, args, free=("out", "seeds", "cells"))
    results: dict[str, Any] = {"arguments": given, "seeds": {}}
    for seed in args.seeds:
        entry: dict[str, Any] = {"made": {}, "cells": {}}
        results["seeds"][str(seed)] = entry
        done(args, args.out / f"seed-{seed}", seed, entry)
        cells.save(args.out, results, table(results))
    print(table(results))


if __name__ == "__main__":
    in_one_line(main)
