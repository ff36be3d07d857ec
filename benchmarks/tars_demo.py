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
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cells import CLAIMS, DESCRIPTIONS, Cell, draw, measured, open_comparison, tables
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.demo import model_path
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json, write_text

SPLITS = ("test", "test_unusual")
CELLS = ("dpo", "mdpo", "tars_mask", "tars_official")
"""Those that are compared unless `--cells` names others."""
METRICS = (
    *CLAIMS,
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "accuracy", "random"), ("pope", "accuracy", "popular"), ("pope", "accuracy", "adversarial"),
    ("pope", "F1", "adversarial"), ("pope", "yes_ratio", "adversarial"),
)  # fmt: skip


def cells(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
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
    train = draw(folder, "train", args.images, seed)
    settings = BuildSettings.model_validate(
        {
            "model": str(args.model),
            "annotations": train / "annotations.jsonl",
            "vocabulary": str(train / "vocabulary.json"),
            "max_new_tokens": 96,
            "exhaustive": True,
            "omission_share": args.omission_share,
            "seed": seed,
        }
    )
    build(settings, folder / "build")
    return folder / "build" / "pairs"


def measure(args: argparse.Namespace, folder: Path, cell: str, seed: int, adapter: str) -> dict[str, Any]:
    """The cell on both kinds of held-out scenes."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        scenes = draw(folder, split, args.test, seed)
        settings = {
            "model": str(args.model),
            "adapter": adapter,
            "annotations": str(scenes / "annotations.jsonl"),
            "benchmarks": ["claims", "pope", "chair"],
            "claims": {"exhaustive": True},
            "chair": {"vocabulary": str(scenes / "vocabulary.json"), **DESCRIPTIONS},
            "bootstrap": {"samples": args.resamples},
            "cache": str(folder / "answers"),  # the untuned model is asked once a seed
        }
        own = measured(folder / "eval" / split, cell, settings, METRICS)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help=f"default: {', '.join(CELLS)}")
    parser.add_argument("--model", type=Path, default=model_path(), help="the demo model, or another folder")
    parser.add_argument("--images", type=int, default=200, help="scenes that pairs are built from")
    parser.add_argument("--test", type=int, default=50, help="held-out scenes of each kind")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--beta", type=float, default=0.2)
    parser.add_argument("--lam", type=float, default=0.1, help="weight of the spectral term")
    parser.add_argument("--omega", type=float, default=1e-3)
    parser.add_argument("--relevance", default="policy", help="`policy`, or the folder of a CLIP-like model")
    parser.add_argument("--sft-weight", type=float, default=1.5, help="SFT term beside every loss; 0 for none")
    parser.add_argument("--omission-share", type=float, default=2.0, help="as in the recipe `demo`; 0 for none")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="12 scenes, 2 steps: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.images, args.test, args.steps, args.batch_size, args.resamples = 12, 12, 2, 4, 200
    known = cells(args)
    wanted = args.cells
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no cell is called {', '.join(unknown)}; known: {', '.join(known)}")
    given = open_comparison(args.out, args, ("out", "seeds", "cells"))
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
            shared = {
                "model": str(args.model), "pairs": source, "learning_rate": args.learning_rate,
                "max_steps": args.steps, "batch_size": args.batch_size, "lora": {"rank": 16}, "samples": {"n": 0},
                "seed": seed,
            }  # fmt: skip
            run = Cell(name, {**shared, **own}).trained(folder)
            results["training"].setdefault(str(seed), {})[name] = {
                key: run[key] for key in ("pairs", "steps", "seconds", "last_eval")
            }
            found[name] = measure(args, folder, name, seed, run["adapter"])
            print(f"seed {seed}, {name}: {run['seconds']:.0f} s of training, measured", flush=True)
            write_json(args.out / "results.json", results)
            shown = "\n".join([summary(results["seeds"], wanted), tables(results["seeds"], wanted)])
            write_text(args.out / "table.md", shown)
    print(summary(results["seeds"], wanted))
    print(json.dumps({"results": str(args.out / "results.json"), "table": str(args.out / "table.md")}))


if __name__ == "__main__":
    in_one_line(main)
