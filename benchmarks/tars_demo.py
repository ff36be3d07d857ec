"""TARS beside DPO and mDPO on the demo world: equal pairs, steps, batch, learning rate and adapter.

    python benchmarks/tars_demo.py --out runs/tars_demo [--seeds 0 1 2] [--cells …] [--quick]

    dpo             plain DPO
    mdpo            DPO + image preference (crop) + anchor
    tars_mask       the paper's TARS, visual-agnostic words masked
    tars_official   the released code's form, its corrections on, the spectral term after the first layer

and, where `--cells` names them, for about as much time again:

    tars_replace    tars_mask with random tokens in the place of the words
    tars_max        the worst of four perturbations counts (the true inner maximization)
    tars_random     tars_mask without relevance: as many words, but any
    tars_flat       tars_mask without the spectral term

Pairs, SFT term and learning rate are those of the recipe `demo`: the model's descriptions with their mistakes edited
out against the descriptions, pairs about what it left out, and its wrong answers to questions. Every seed builds them
once and asks the untuned model once. Measured on held-out scenes that follow the world's co-occurrences and on
`test_unusual`, which break them: wrong claims by kind, CHAIR with recall (the cover) and length, POPE in three splits.
Killed and run again it goes on; no finished cell is done again. Writes results.json and table.md: means over seeds with
95% intervals (over held-out scenes; the adapters as they are) and differences from DPO seed by seed, then every value
of every seed with its interval, and standard deviations over seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.demo import model_path
from mmpo.errors import in_one_line

SPLITS = ("test", "test_unusual")
CELLS = ("dpo", "mdpo", "tars_mask", "tars_official")
"""Those that are compared unless `--cells` names others."""
METRICS = (
    *cells.CLAIMS,
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "accuracy", "random"), ("pope", "accuracy", "popular"), ("pope", "accuracy", "adversarial"),
    ("pope", "F1", "adversarial"), ("pope", "yes_ratio", "adversarial"),
)  # fmt: skip


def objectives(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each cell trains with, beside what all share."""
    beta = {"beta": args.beta}
    spectral = {**beta, "lam": args.lam}
    words = {"omega": args.omega, "relevance": args.relevance}
    return {
        "dpo": {"objective": {"dpo": beta}},
        "mdpo": {"objective": {"mdpo": beta}},
        "tars_mask": {"objective": {"tars": spectral}, "perturbation": {**words, "mode": "mask"}},
        "tars_replace": {"objective": {"tars": spectral}, "perturbation": {**words, "mode": "replace"}},
        "tars_max": {"objective": {"tars": {**spectral, "candidates": 4}}, "perturbation": {**words, "mode": "mask"}},
        "tars_official": {
            "objective": {"tars_official": {**spectral, "layer": 1}},
            "disturbance": {"relevance": args.relevance},
        },
        "tars_random": {
            "objective": {"tars": spectral},
            "perturbation": {**words, "mode": "mask", "words": "random"},
        },
        "tars_flat": {"objective": {"perturbed_dpo": beta}, "perturbation": {**words, "mode": "mask"}},
    }


def pairs(args: argparse.Namespace, folder: Path, seed: int) -> Path:
    """The pairs of a seed, built once."""
    settings = BuildSettings.model_validate(cells.own_descriptions(args, folder, seed))
    build(settings, folder / "build")
    return folder / "build" / "pairs"


def measure(args: argparse.Namespace, folder: Path, cell: str, seed: int, adapter: str) -> dict[str, Any]:
    """The cell on both kinds of held-out scenes."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        settings = cells.held_out(args, folder, seed, adapter, ["claims", "pope", "chair"], split)
        own = cells.measured(folder / "eval" / split, cell, settings, METRICS)
        found |= {f"{split}: {metric}": values for metric, values in own.items()}
    return found


def summary(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], wanted: Sequence[str]) -> str:
    """Two markdown tables: each cell's mean over the seeds with its interval, and how far it is from `dpo` in each."""
    whole = [rows for rows in seeds.values() if all(cell in rows for cell in wanted)]
    if not whole:
        return ""
    head = f"{' | '.join(['untuned', *wanted])} |"
    lines = [f"| mean over {len(whole)} seed(s) | {head}", f"| --- |{' ---: |' * (len(wanted) + 1)}"]
    for metric, example in whole[0][wanted[0]].items():
        scale = 100.0 if example["percent"] else 1.0
        columns = [[rows[wanted[0]][metric]["before"] for rows in whole]]
        columns += [[rows[cell][metric]["after"] for rows in whole] for cell in wanted]
        lines.append(f"| {metric} | {' | '.join(pooled(column, scale) for column in columns)} |")
    others = [cell for cell in wanted if cell != "dpo"]
    if "dpo" not in wanted or not others:
        return "\n".join(lines) + "\n"
    lines += ["", f"| less dpo, seed by seed | {' | '.join(others)} |", f"| --- |{' ---: |' * len(others)}"]
    for metric, example in whole[0]["dpo"].items():
        scale = 100.0 if example["percent"] else 1.0
        differences = [
            ", ".join(
                f"{(rows[cell][metric]['after']['value'] - rows['dpo'][metric]['after']['value']) * scale:+.1f}"
                for rows in whole
            )
            for cell in others
        ]
        lines.append(f"| {metric} | {' | '.join(differences)} |")
    return "\n".join(lines) + "\n"


def pooled(estimates: Sequence[Mapping[str, float]], scale: float) -> str:
    """The mean of one value a seed with its 95% interval: seeds hold out different scenes, so that variances add."""
    mean = statistics.mean(estimate["value"] for estimate in estimates) * scale
    below = math.hypot(*(estimate["value"] - estimate["low"] for estimate in estimates)) / len(estimates) * scale
    above = math.hypot(*(estimate["high"] - estimate["value"] for estimate in estimates)) / len(estimates) * scale
    return f"{mean:.1f} [{mean - below:.1f}, {mean + above:.1f}]"


def main() -> None:
    parser = cells.command_line(__doc__)
    cells.add_sizes(parser, images=200, test=50, steps=60, beta=0.2, rate=1e-3)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help=f"default: {', '.join(CELLS)}")
    parser.add_argument("--lam", type=float, default=0.1, help="weight of the spectral term")
    parser.add_argument("--omega", type=float, default=1e-3)
    parser.add_argument("--relevance", default="policy", help="`policy`, or the folder of a CLIP-like model")
    parser.add_argument("--sft-weight", type=float, default=1.5, help="SFT term beside every loss; 0 for none")
    parser.add_argument("--omission-share", type=float, default=2.0, help="as in the recipe `demo`; 0 for none")
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        cells.make_quick(args)
    known = objectives(args)
    wanted = args.cells
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no cell is called {', '.join(unknown)}; known: {', '.join(known)}")
    given = cells.open_comparison(args.out, args, ("out", "seeds", "cells"))
    given["model"] = "the demo model" if args.model == model_path() else args.model.name  # no folder of this machine
    results: dict[str, Any] = {"arguments": given, "cells": wanted, "seeds": {}, "training": {}}
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        found = results["seeds"].setdefault(str(seed), {})
        source = pairs(args, folder, seed)
        for name in wanted:
            own = {key: dict(value) for key, value in known[name].items()}
            if args.sft_weight:
                own["objective"]["sft"] = {"weight": args.sft_weight}
            run = cells.Cell(name, {**cells.equal_training(args, source, seed), **own}).trained(folder)
            results["training"].setdefault(str(seed), {})[name] = {
                key: run[key] for key in ("pairs", "steps", "seconds", "last_eval")
            }
            found[name] = measure(args, folder, name, seed, run["adapter"])
            print(f"seed {seed}, {name}: {run['seconds']:.0f} s of training, measured", flush=True)
            shown = "\n".join([summary(results["seeds"], wanted), cells.tables(results["seeds"], wanted)])
            cells.save(args.out, results, shown)
    print(summary(results["seeds"], wanted))


if __name__ == "__main__":
    in_one_line(main)
