"""Standard beside weighted DPO against made-up earlier exams, on synthetic films.

    python benchmarks/radiology_demo.py --out runs/radiology_demo [--seeds 0 1 2] [--cells …] [--quick]

    standard    gamma 1: every token counts alike
    weighted    the gamma of the recipe
    edited      gamma 0: edited tokens alone (with `--cells`)

Everything else is the recipe `radiology-demo`, as `mmpo demo radiology` runs it: the same films, pairs of the model's
own reports (built once a seed), steps, batch, learning rate, adapter and SFT term; `--set` changes the recipe for all
cells. Measured on held-out films against the untuned model. Killed and run again it goes on; no finished cell is done
again. Writes results.json and table.md: per seed every value with its 95% interval, then mean and deviation over
seeds, then how many times fewer lines with an earlier exam a report has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.data_builders.builders import build
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.demo.radiology import model_path
from mmpo.demo.radiology.world import write_split
from mmpo.errors import in_one_line
from mmpo.eval.radiology.metrics import reduction, score_reports
from mmpo.pipeline import section_settings
from mmpo.recipes import Recipe, load

CELLS: dict[str, float | None] = {"standard": 1.0, "weighted": None, "edited": 0.0}
"""Gamma of each; None: the recipe's."""
METRICS: tuple[cells.Metric, ...] = tuple(
    ("radiology", name, None)
    for name in ("prior_lines_per_report", "reports_with_priors", "prior_line_share", "words", "finding_precision",
                 "finding_recall", "finding_F1", "BLEU4", "ROUGE_L")
)  # fmt: skip


def recipe_of(args: argparse.Namespace, folder: Path, seed: int, cell: str) -> Recipe:
    """The demo's recipe for one cell, in its own words."""
    gamma = CELLS[cell]
    settings = [f"seed={seed}", "train.samples.n=0", *args.set]
    settings += [] if gamma is None else [f"train.objective.subset_dpo.gamma={gamma}"]
    names = {"demo.world": lambda: str(folder / "world"), "demo.radiology_model": lambda: str(args.model)}
    return load("radiology-demo", run=folder, settings=settings, inputs=names)


def draw(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """The films of a seed, drawn once."""
    for split, films in (("radiology_train", args.films), ("radiology_test", args.test)):
        if not (folder / "world" / split / "reports.jsonl").exists():
            write_split(folder / "world" / split, split, films, seed)


def written(run: Path, state: str) -> dict[str, str]:
    """The reports of an evaluation before or after, by id."""
    rows = (run / "radiology" / f"reports_{state}.jsonl").read_text().splitlines()
    return {row["id"]: row["text"] for row in map(json.loads, rows)}


def fewer(seeds: dict[str, dict[str, Any]], wanted: list[str]) -> str:
    """A table of reductions: a row a seed, a column a cell."""
    lines = [f"| times fewer lines with an earlier exam | {' | '.join(wanted)} |", f"| --- |{' --- |' * len(wanted)}"]
    for seed, found in seeds.items():
        shown = []
        for cell in wanted:
            own = found.get(cell, {"reduction": None, "reduction_low": None, "reduction_high": None})
            value, low, high = ("∞" if own[f"reduction{end}"] is None else f"{own[f'reduction{end}']:.1f}"
                                for end in ("", "_low", "_high"))  # fmt: skip
            shown.append(f"{value} [{low}, {high}]" if cell in found else "")
        lines.append(f"| seed {seed} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = cells.command_line(__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=["weighted", "standard"])
    parser.add_argument("--films", type=int, default=300, help="films that pairs are built from")
    parser.add_argument("--test", type=int, default=200, help="held-out films")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        args.films = args.test = 12
        args.set += ["train.max_steps=2", "train.batch_size=4", "eval.bootstrap.samples=200"]
    given = cells.open_comparison(args.out, args, ("out", "seeds", "cells", "model"))
    results: dict[str, Any] = {"arguments": given, "cells": args.cells, "seeds": {}, "training": {}, "reduction": {}}
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        draw(args, folder, seed)
        own: dict[str, dict[str, Any]] = {key: {} for key in ("seeds", "training", "reduction")}
        for kind, rows in own.items():
            results[kind][str(seed)] = rows
        for cell in args.cells:
            recipe = recipe_of(args, folder, seed, cell)
            made = build(RadiologySettings.model_validate(section_settings(recipe, "build")), folder / "build")
            run = cells.Cell(cell, section_settings(recipe, "train")).trained(folder)
            own["training"][cell] = {"pairs": made.pairs_made, "steps": run["steps"], "last_eval": run["last_eval"]}
            asked = {**section_settings(recipe, "eval"), "adapter": run["adapter"], "cache": str(folder / "answers")}
            own["seeds"][cell] = cells.measured(folder / "eval", cell, asked, METRICS)
            before, after = (score_reports(written(folder / "eval" / cell, state)) for state in ("before", "after"))
            own["reduction"][cell] = reduction(before, after, seed=seed)
            print(f"seed {seed}, {cell}: {own['reduction'][cell]}", flush=True)
            table = cells.tables(results["seeds"], args.cells) + "\n" + fewer(results["reduction"], args.cells)
            cells.save(args.out, results, table)
    print(table)


if __name__ == "__main__":
    in_one_line(main)
