"""Three rounds against one round of three times the pairs, at equal steps, on the demo world.

    python benchmarks/rounds_demo.py --out runs/rounds_demo [--seeds 0 1 2] [--cells …] [--quick]

Cells, each with the same total of steps, batch, learning rate and size of adapter:

    rounds         build, train, build with the tuned model, train on from it, … (`rounds: 3`): 3 x STEPS steps on the
                   pairs of each round; the reference is the model that the round began with. Measured after every round
    rounds_base    the same, but each round trains a new adapter on the untuned model, against the untuned model: STEPS
                   steps of the last round alone are in what is measured
    once           one round on the pairs of three times the scenes: 3 x STEPS steps
    once_longer    one round on the pairs of round 1: 3 x STEPS steps

Three times the pairs come from three times the scenes, so `once` sees scenes that no round sees: whatever rounds win is
not won by more pictures. Nothing stops the rounds early here. Measured on held-out scenes against the untuned model:
wrong claims by kind, CHAIR with recall and length, POPE (adversarial). Killed and run again it goes on, inside a
training as well. Writes results.json and table.md: per seed the scorecards' values with their intervals, over seeds
mean and standard deviation; the pairs of each training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.demo import model_path
from mmpo.errors import in_one_line
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.pipeline import open_run
from mmpo.recipes import complete
from mmpo.recipes.source import RecipeSource
from mmpo.rounds import planned, write_rounds
from mmpo.runs import RunFolder

CELLS = ("rounds", "rounds_base", "once", "once_longer")
NUMBER = 3
METRICS: tuple[cells.Metric, ...] = (
    *cells.CLAIMS,
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "F1", "adversarial"), ("pope", "yes_ratio", "adversarial"),
)  # fmt: skip


def recipe_data(args: argparse.Namespace, folder: Path, cell: str, seed: int) -> dict[str, Any]:
    """The recipe of a cell: all differ in what is said here alone."""
    scenes = folder / "threefold" if cell == "once" else folder
    images = args.images * NUMBER if cell == "once" else args.images
    many = argparse.Namespace(**{**vars(args), "images": images})
    build = cells.own_descriptions(many, scenes, seed)
    in_rounds = cell.startswith("rounds")
    train = cells.equal_training(args, Path(), seed) | {
        "objective": {"dpo": {"beta": args.beta}, "sft": {"weight": args.sft_weight}},
        "max_steps": args.steps if in_rounds else args.steps * NUMBER,
        "eval_fraction": 0,
    }
    evaluation = cells.held_out(args, folder, seed, "", ["claims", "chair", "pope"])
    evaluation["pope"] = {"splits": ["adversarial"]}
    for section, dropped in ((build, ("model", "seed")), (train, ("model", "pairs", "seed")),
                             (evaluation, ("model", "adapter"))):  # fmt: skip
        for key in dropped:
            section.pop(key)
    build["annotations"] = str(build["annotations"])
    data: dict[str, Any] = {"name": cell, "model": str(args.model), "seed": seed}
    if in_rounds:
        start = {"train_from": "base", "reference": "fixed"} if cell == "rounds_base" else {}
        data["rounds"] = {"number": NUMBER, "stop": None, **start}
    if cell == "once_longer":
        train["pairs"] = str(folder / "rounds" / "build-1" / "pairs")
    else:
        data["build"] = build
    return data | {"train": train, "eval": evaluation}


def done(args: argparse.Namespace, folder: Path, cell: str, seed: int) -> dict[str, dict[str, Any]]:
    """Run a cell, what of it is not done yet; its measurements (of rounds: after each) and the pairs of its builds."""
    run = RunFolder(folder / cell)
    recipe = complete(RecipeSource(f"{cell} of rounds_demo", recipe_data(args, folder, cell, seed)), run=run.path)
    open_run(run, recipe)
    measured: dict[str, dict[str, Any]] = {}
    pairs: dict[str, Any] = {}
    for step in planned(recipe, run):
        result = step.do()
        name = f"{cell} {step.number}" if step.number else cell
        if step.section == "eval":
            measured[name] = cells.picked(Scorecard.model_validate(result), METRICS)
        elif step.section == "train":
            pairs[name] = result["pairs"]
        print(f"seed {seed}, {name}: {step.section} done", flush=True)
    write_rounds(recipe, run)
    return {"cells": measured, "pairs": pairs}


def table(results: Mapping[str, Any]) -> str:
    """The pairs that each training had, then a row for each metric and a column for each model."""
    seeds = results["seeds"]
    names = list(dict.fromkeys(name for entry in seeds.values() for name in entry["cells"]))
    lines = [f"| pairs trained on, seed | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for seed, entry in seeds.items():
        lines.append(f"| {seed} | {' | '.join(str(entry['pairs'].get(name, '')) for name in names)} |")
    return "\n".join(lines) + "\n\n" + cells.tables({seed: entry["cells"] for seed, entry in seeds.items()}, names)


def main() -> None:
    parser = cells.command_line(__doc__)
    cells.add_sizes(parser, images=200, test=150, steps=60, beta=0.1, rate=1.5e-4)
    parser.set_defaults(batch_size=16)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["rounds", "once", "once_longer"])
    parser.add_argument("--sft-weight", type=float, default=1.5, help="SFT term beside DPO, against lost recall")
    parser.add_argument("--omission-share", type=float, default=1.0, help="omission pairs for each hallucination pair")
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        cells.make_quick(args)
    if "once_longer" in args.cells and "rounds" not in args.cells:
        parser.error("once_longer trains on the pairs of round 1: name the cell rounds, too")
    given = cells.open_comparison(args.out, args, free=("out", "seeds", "cells"))
    results: dict[str, Any] = {"arguments": given, "cells": args.cells, "seeds": {}}
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        entry: dict[str, Any] = {"cells": {}, "pairs": {}}
        results["seeds"][str(seed)] = entry
        for cell in sorted(args.cells, key=CELLS.index):
            found = done(args, folder, cell, seed)
            entry["cells"] |= found["cells"]
            entry["pairs"] |= found["pairs"]
            cells.save(args.out, results, table(results))
    print(table(results))


if __name__ == "__main__":
    in_one_line(main)
