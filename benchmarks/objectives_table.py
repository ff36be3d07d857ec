"""Objectives side by side on the demo world: equal pairs, steps, batch and adapter, three seeds.

    python benchmarks/objectives_table.py --out runs/objectives [--only simpo orpo] [--seeds 0 1 2] [--jobs 2] [--quick]
    python benchmarks/objectives_table.py --out runs/objectives --time       # then, on an idle machine

Each objective has the parameters that it has by default and is trained alone, without an SFT term beside it; `--only`
selects, `--list` names all. Every seed draws its scenes, builds its pairs once (those of the recipe `demo`: the model's
descriptions with their mistakes edited out against the descriptions, pairs about what it left out, and its wrong
answers to questions) and asks the untuned model once. A cell takes about two minutes of one core.

The learning rate follows one rule, chosen before any number of the table was made. Adam undoes the scale of a gradient,
so no rate can be had from the scale of a loss; what differs is how soon its gradient dies down, and that is alike
within a family (`FAMILIES`). The first objective of each family is trained at every rate of `--rates` on a seed of its
own (`--rate-seed`, 9), whose scenes are in no other row; the rate with the best harmonic mean of 1 - CHAIR_i and object
recall on its held-out scenes is the family's, and the lower one of equals. So no loss chooses, and neither a model that
stops naming things nor one that goes on inventing wins. The whole sweep stands below the table.

Measured on held-out scenes: CHAIR_i, object recall, tokens a description, POPE adversarial F1, each with its 95%
interval over scenes (the adapters as they are; seeds hold out different scenes, so variances add); on held-out pairs
how far the log-probs of chosen and rejected responses moved (displacement), with the range over seeds; seconds a step,
evaluations left out. Those of a run are wall time of cells that ran beside one another, and marked so; `--time` does no
cell, but trains every objective for 12 steps on the first seed's pairs, one after another on one core, and keeps the
median of the last 8 in seed-S/seconds/NAME.json, where the table then takes it from. Ranks go by that harmonic mean
(`balance`), and an objective shares the rank of the best one whose interval it overlaps.

One file a cell: killed and run again it goes on, and no finished cell is done again; with other arguments it refuses.
Cells that fail are named, nothing stands in the table for them, and the command ends with 1. Writes results.json,
table.md and summary.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from benchmarks.objectives_rows import METRICS, UNTUNED, balance, pooled_rows, ranks, table, with_seconds
from benchmarks.objectives_seconds import alone, file_of, timed
from benchmarks.objectives_summary import summary
from mmpo.cli.logs import silence_libraries
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.demo import model_path
from mmpo.errors import UserError, in_one_line
from mmpo.files.atomic import read_json, write_json, write_text

FAMILIES: dict[str, tuple[str, ...]] = {
    "summed log-ratios": (
        "dpo", "cdpo", "robust", "hinge", "gpo", "f_dpo", "exo_pair", "discopop", "aot", "dpop", "cal_dpo",
        "dpo_shift", "flex_dpo", "focalpo", "beta_dpo", "wpo", "length_dpo", "ld_dpo", "sampo", "span_dpo",
        "subset_dpo", "dpo_bmc", "tdpo1", "tdpo2", "ra_dpo", "rpo",
    ),
    "single responses": ("apo_zero", "apo_down", "kto", "kto_pair", "bco_pair", "nca_pair", "sppo_hard"),
    "averages": ("simpo", "ln_dpo", "dense_dpo", "ipo", "mipo", "gamma_po", "alphapo", "repo"),
    "with a likelihood": ("orpo", "asft", "cpo", "slic", "mpo", "sft"),
    "flows": ("gdpo",),
    "views of the image": ("mdpo", "povid", "vdpo", "lpoi", "tpo"),
    "perturbed questions": ("perturbed_dpo", "tars"),
}  # fmt: skip
"""Objectives that share a learning rate; it is chosen with the first."""

OWN: dict[str, dict[str, Any]] = {
    "cdpo": {"parameters": {"eps": 0.1}},  # 0, its default, is dpo
    **{name: {"train": {"token_weights": {"changed": 5.0}}} for name in ("span_dpo", "dense_dpo", "dpo_bmc")},
    "subset_dpo": {"train": {"token_weights": {"changed": 1.0}}},
    **{name: {"train": {"corruption": {"kind": "diffusion_pixels"}}} for name in ("vdpo", "povid")},
}
"""What an objective needs beside its name."""


def family_of(name: str) -> str:
    return next(family for family, names in FAMILIES.items() if name in names)


def train_settings(name: str) -> dict[str, Any]:
    """What an objective trains with beside what all share."""
    own = OWN.get(name, {})
    return {"objective": {name: own.get("parameters", {})}, **own.get("train", {})}


@dataclass(frozen=True)
class Work:
    """One cell: an objective with a rate on a seed. `sweep`: it is there to choose the rate, and not in the table."""

    seed: int
    name: str
    rate: float
    sweep: bool = False

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.name} at {self.rate:g}"

    def file(self, out: Path) -> Path:
        return out / f"seed-{self.seed}" / "cells" / f"{self.name}@{self.rate:g}.json"


# ---- what a process does


def prepare(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The seed's pairs, and what the untuned model says of its held-out scenes; once."""
    folder = args.out / f"seed-{seed}"
    done = folder / "untuned.json"
    if not done.exists():
        result = build(BuildSettings.model_validate(cells.own_descriptions(args, folder, seed)), folder / "build")
        settings = cells.held_out(args, folder, seed, "", ["pope", "chair"]) | {"adapter": None}
        found = cells.measured(folder / "eval", UNTUNED, settings, tuple(METRICS.values()))
        write_json(done, {"pairs": result.description_pairs + result.question_pairs, "metrics": _named(found, "after")})
    return dict(read_json(done))


def run_cell(args: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Train and measure one cell; everything but its numbers is removed afterwards."""
    folder = args.out / f"seed-{work.seed}"
    start, spent = time.monotonic(), time.process_time()
    settings = {
        **cells.equal_training(args, folder / "build" / "pairs", work.seed),
        "learning_rate": work.rate,
        "eval_fraction": args.held_out,
        "save_steps": None,
        **train_settings(work.name),
    }
    name = work.file(args.out).stem
    result = cells.Cell(name, settings).trained(folder)
    rows = [json.loads(line) for line in (folder / "train" / name / "metrics.jsonl").open()]
    found = cells.measured(
        folder / "eval", name, cells.held_out(args, folder, work.seed, result["adapter"], ["pope", "chair"]),
        tuple(METRICS.values()),
    )  # fmt: skip
    numbers = {
        "family": family_of(work.name),
        "learning_rate": work.rate,
        "metrics": _named(found, "after"),
        "drift": {side: drift(result, side) for side in ("chosen", "rejected")},
        "accuracy": (result["last_eval"] or {}).get("eval_rewards/accuracies"),
        "seconds_a_step": seconds_a_step(rows, args.batch_size),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(time.process_time() - spent, 1),
    }
    write_json(work.file(args.out), numbers)
    shutil.rmtree(folder / "train" / name)
    shutil.rmtree(folder / "eval" / name)
    return numbers


def _named(found: Mapping[str, Any], when: str) -> dict[str, Any]:
    """Metrics by the table's names, in percent where they are shares."""
    shown = {}
    for (name, _), values in zip(METRICS.items(), found.values(), strict=True):
        scale = 100.0 if values["percent"] else 1.0
        shown[name] = {key: values[when][key] * scale for key in ("value", "low", "high")}
    return shown


def drift(result: Mapping[str, Any], side: str) -> float:
    """How far the log-prob of a held-out response moved, in nats, on the mean."""
    before, after = ((result[when] or {}).get(f"eval_logps/{side}") for when in ("first_eval", "last_eval"))
    if before is None or after is None:
        raise UserError("no pairs are held out", hint="more scenes, or a larger --held-out")
    return float(after - before)


def seconds_a_step(rows: Iterable[Mapping[str, Any]], batch_size: int) -> float:
    """Of the training rows of a metrics file, each of which counts equally many pairs; evaluations are not in them."""
    return statistics.mean(batch_size / row["pairs_per_second"] for row in rows if "pairs_per_second" in row)


def _start_process() -> None:
    silence_libraries()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # notices of transformers about coming versions


# ---- the order of work


def run_all(args: argparse.Namespace, works: Sequence[Work]) -> list[str]:
    """Do what is not done yet, `--jobs` at a time; what failed, in one line each."""
    left = [work for work in works if not work.file(args.out).exists()]
    failed: list[str] = []
    if not left:
        return failed
    start, spent = time.monotonic(), []
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), _start_process) as pool:
        for seed in pool.map(prepare, [args] * 99, sorted({work.seed for work in left})):
            print(f"{seed['pairs']} pairs are built, the untuned model is measured", flush=True)
        running = {pool.submit(run_cell, args, work): work for work in left}
        for done in as_completed(running):
            try:
                numbers = done.result()
            except Exception as error:  # a cell that fails must not end the others; it is said, and ends in exit 1
                failed.append(f"{running[done]}: {type(error).__name__}: {error}".splitlines()[0])
                print(f"FAILED  {failed[-1]}", flush=True)
                continue
            spent.append(numbers["seconds"])
            rest = (len(left) - len(spent) - len(failed)) * statistics.mean(spent) / args.jobs / 60
            print(f"{running[done]}: {numbers['seconds']:.0f} s; about {rest:.0f} minutes to go", flush=True)
    print(f"{len(spent)} cells in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    return failed


def time_one(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The seconds a step of one objective on the first seed's pairs; its rate changes nothing about them."""
    seed = args.seeds[0]
    pairs = args.out / f"seed-{seed}" / "build" / "pairs"
    settings = {**cells.equal_training(args, pairs, seed), "learning_rate": 1e-4, **train_settings(name)}
    return timed(file_of(args.out, seed, name), name, settings, quick=args.quick)


def time_all(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Time what is not timed yet, one after another; what failed, in one line each."""
    left = [name for name in names if not file_of(args.out, args.seeds[0], name).exists()]
    failed = []
    with ProcessPoolExecutor(1, get_context("spawn"), _start_process) as pool:
        if left:
            pool.submit(prepare, args, args.seeds[0]).result()
        for number, name in enumerate(left, 1):
            try:
                found = pool.submit(time_one, args, name).result()
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
                print(f"FAILED  {failed[-1]}", flush=True)
                continue
            told = f"{found['seconds_a_step']:.3f} s a step, load {found['load']}"
            print(f"{number} of {len(left)}, {name}: {told}", flush=True)
    return failed


def sweep(args: argparse.Namespace, families: Iterable[str]) -> dict[str, list[Work]]:
    """The trainings that choose the rate of each family."""
    return {
        family: [Work(args.rate_seed, FAMILIES[family][0], rate, sweep=True) for rate in sorted(args.rates)]
        for family in families
    }


def chosen_rates(args: argparse.Namespace, swept: Mapping[str, Sequence[Work]]) -> dict[str, dict[str, Any]]:
    """For each family that is swept completely all scores by rate, and the rate."""
    found = {}
    for family, works in swept.items():
        if all(work.file(args.out).exists() for work in works):
            scores = {work.rate: balance(read_json(work.file(args.out))["metrics"])["value"] for work in works}
            found[family] = {"by": works[0].name, "scores": scores, "rate": max(scores, key=lambda r: (scores[r], -r))}
    return found


# ---- the command


def parser() -> argparse.ArgumentParser:
    known = cells.command_line(__doc__)
    known.add_argument("--only", nargs="+", metavar="NAME", help="these objectives; default: all of --list")
    known.add_argument("--list", action="store_true", help="name the objectives by family, and end")
    known.add_argument("--time", action="store_true", help="only time the steps, each objective alone on one core")
    known.add_argument("--jobs", type=int, default=2, help="cells at a time, on one core each")
    known.add_argument("--images", type=int, default=200, help="scenes that pairs are built from")
    known.add_argument("--test", type=int, default=100, help="held-out scenes")
    known.add_argument("--steps", type=int, default=100)
    known.add_argument("--batch-size", type=int, default=8)
    known.add_argument("--held-out", type=float, default=0.05, help="share of the pairs that drift is measured on")
    known.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3], help="learning rates to try")
    known.add_argument("--rate-seed", type=int, default=9, help="the seed that they are tried on")
    known.add_argument("--rate", type=float, help="this learning rate for all, and nothing is tried")
    known.add_argument("--omission-share", type=float, default=2.0, help="as in the recipe `demo`; 0 for none")
    known.add_argument("--resamples", type=int, default=2000)
    known.set_defaults(learning_rate=None)
    return known


FREE = ("out", "seeds", "only", "list", "jobs", "time")
"""Arguments that may change from call to call."""


def gather(args: argparse.Namespace, works: Sequence[Work]) -> dict[str, dict[str, Any]]:
    """What is on disk, by seed and objective."""
    found: dict[str, dict[str, Any]] = {}
    for seed in args.seeds:
        done = args.out / f"seed-{seed}" / "untuned.json"
        if done.exists():
            found[str(seed)] = {UNTUNED: read_json(done)}
            own = [work for work in works if work.seed == seed and work.file(args.out).exists()]
            found[str(seed)] |= {work.name: read_json(work.file(args.out)) for work in own}
    return found


def main() -> None:
    known = parser()
    args = known.parse_args()
    everything = [name for names in FAMILIES.values() for name in names]
    if args.list:
        print("\n".join(f"{family}: {', '.join(names)}" for family, names in FAMILIES.items()))
        return
    if unknown := sorted(set(args.only or ()) - set(everything)):
        known.error(f"not among the objectives: {', '.join(unknown)}; --list names them")
    if args.rate_seed in args.seeds:
        known.error("the seed of the rates must not be in the table")
    args.model = args.model or model_path()
    if args.quick:
        cells.make_quick(args)
        args.rate, args.held_out = args.rate or 1e-4, 0.3
    given = cells.open_comparison(args.out, args, FREE)
    names = [name for name in everything if not args.only or name in args.only]
    swept = {} if args.rate else sweep(args, dict.fromkeys(family_of(name) for name in names))
    failed = time_all(args, names) if args.time else run_all(args, [one for works in swept.values() for one in works])
    rates = chosen_rates(args, swept)
    works = [
        Work(seed, name, args.rate or rates[family_of(name)]["rate"])
        for seed in args.seeds
        for name in names
        if args.rate or family_of(name) in rates
    ]
    failed += [] if args.time else run_all(args, works)
    seeds = gather(args, works)
    rows = with_seconds(pooled_rows(seeds, names), alone(args.out, args.seeds[0], names))
    results = {"arguments": given, "rates": rates, "seeds": seeds, "rows": rows, "ranks": ranks(rows)}
    write_json(args.out / "results.json", results)
    for file, text in (("table.md", table(results)), ("summary.md", summary(results))):
        write_text(args.out / file, text)
        print(text)
    if failed:
        print("\n".join(["failed:", *failed]), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    in_one_line(main)
