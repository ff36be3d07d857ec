"""HA-DPO against plain DPO on un-rewritten pairs and against SFT on the chosen side, on the demo world.

    python benchmarks/ha_dpo_demo.py --out runs/ha_dpo_demo [--seeds 0 1 2] [--cells …] [--style-only] [--quick]

Cells, each from the same descriptions and the same questions of the untuned model:

    ha_dpo      the description with its mistakes edited out against the description, both worded by one writer
    captions    the annotator's caption in the sentences of the description against the description (rewritten)
    plain_dpo   the annotator's caption against the description, both as they were written (not rewritten)
    sft         the chosen sides of ha_dpo, no rejected side
    anew        the annotated objects, in the sentences of the description, against the description (rewritten)
    anew_plain  the same as another writer puts it (`The image contains …`), not rewritten

Equal steps, batch, learning rate and adapter. Measured on held-out scenes against the untuned model: CHAIR with recall
and length, POPE (three splits), SHR by rules. Killed and run again it goes on; no finished cell is done again. Writes
results.json and table.md: per seed the scorecards' values with their intervals, over seeds mean and standard deviation.
`--style-only` builds and probes alone: how well style tells the sides apart with and without the rewriting step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpo.data.atomic import read_json, write_json, write_text
from mmpo.data_builders.build import build
from mmpo.data_builders.settings import BuildResult, BuildSettings
from mmpo.demo import model_path
from mmpo.demo.world import write_split

BUILDS: dict[str, dict[str, Any]] = {
    "edited": {},
    "captions": {"correction": "caption"},
    "captions_raw": {"correction": "caption", "rewrite": False},
    "anew": {"correction": "anew"},
    "anew_raw": {"correction": "anew", "rewrite": False},
}
CELLS = {"ha_dpo": "edited", "captions": "captions", "plain_dpo": "captions_raw", "sft": "edited",
         "anew": "anew", "anew_plain": "anew_raw"}  # fmt: skip
METRICS = (
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "F1", "random"), ("pope", "F1", "popular"), ("pope", "F1", "adversarial"),
    ("pope", "yes_ratio", "adversarial"),
    ("shr", "hal_sents_ratio", None),
)  # fmt: skip


def draw(folder: Path, split: str, images: int, seed: int) -> Path:
    """A split of the world, drawn once."""
    path = folder / "world" / split
    if not (path / "annotations.jsonl").exists():
        write_split(path, split, images, seed)
    return path


def built(args: argparse.Namespace, folder: Path, name: str, seed: int) -> BuildResult:
    """The pairs of one build; what the model says is shared by all builds of a seed."""
    train = draw(folder, "train", args.images, seed)
    settings = BuildSettings.model_validate(
        {
            "model": str(args.model),
            "annotations": train / "annotations.jsonl",
            "vocabulary": str(train / "vocabulary.json"),
            "max_new_tokens": 96,
            "omission_share": args.omission_share,
            "seed": seed,
            **BUILDS[name],
        }
    )
    return build(settings, folder / "build" / name, said=folder / "said")


def trained(args: argparse.Namespace, folder: Path, cell: str, seed: int) -> Path:
    from mmpo.trainers.settings import TrainSettings
    from mmpo.trainers.train import train

    run = folder / "train" / cell
    done = run / "done.json"
    if not done.exists():
        objective = {"sft": {}} if cell == "sft" else {"dpo": {"beta": args.beta}}
        if cell != "sft" and args.sft_weight:
            objective["sft"] = {"weight": args.sft_weight}
        settings = TrainSettings.model_validate(
            {
                "model": str(args.model),
                "pairs": folder / "build" / CELLS[cell] / "pairs",
                "objective": objective,
                "learning_rate": args.learning_rate,
                "max_steps": args.steps,
                "batch_size": args.batch_size,
                "lora": {"rank": 16},
                "samples": {"n": 0},
                "seed": seed,
            }
        )
        result = train(settings, run)
        write_json(done, {"steps": result.steps, "pairs": result.pairs})
    return run / "adapter"


def evaluated(args: argparse.Namespace, folder: Path, cell: str, seed: int, adapter: Path) -> dict[str, Any]:
    from mmpo.eval.harness import evaluate
    from mmpo.eval.scorecard import Scorecard
    from mmpo.eval.settings import EvalSettings

    run = folder / "eval" / cell
    if not (run / "scorecard.json").exists():
        test = draw(folder, "test", args.test, seed)
        settings = EvalSettings.model_validate(
            {
                "model": str(args.model),
                "adapter": str(adapter),
                "annotations": str(test / "annotations.jsonl"),
                "benchmarks": ["pope", "chair", "shr"],
                "chair": {"vocabulary": str(test / "vocabulary.json"), "prompt": "Describe this image in detail.",
                          "max_new_tokens": 96},
                "shr": {"judged_by": "rules", "max_new_tokens": 96},
                "bootstrap": {"samples": args.resamples},
                "cache": str(folder / "answers"),  # the untuned model is asked once a seed
            }
        )  # fmt: skip
        evaluate(settings, run)
    card = Scorecard.read(run / "scorecard.json")
    found: dict[str, Any] = {}
    for benchmark, metric, split in METRICS:
        row = card.row(benchmark, metric, split)
        found[" ".join(filter(None, (benchmark, split, metric)))] = {
            "percent": row.percent,
            "before": row.before.model_dump() if row.before else None,
            "after": row.after.model_dump(),
            "change": row.change.model_dump() if row.change else None,
        }
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: the style probe of each build, then a row for each metric and a column for each cell."""
    lines = [
        "| build, seed | pairs | style AUROC | wording AUROC | length AUROC | with object words | chosen longer by |"
    ]
    lines += ["| --- | ---: | --- | --- | --- | --- | ---: |"]
    for seed, entry in results["seeds"].items():
        for name, probe in entry["style"].items():
            if probe is None:
                lines.append(f"| {name}, {seed} | too few | | | | | |")
                continue
            cells = [_interval(probe[kind]["auroc"], probe[kind]["auroc_low"], probe[kind]["auroc_high"], 1.0)
                     for kind in ("style", "wording", "length", "all")]  # fmt: skip
            lines.append(
                f"| {name}, {seed} | {probe['pairs']} | {' | '.join(cells)} | {probe['longer_by']:+.2f} words |"
            )
    cells = [cell for cell in results["cells"] if any(cell in e["cells"] for e in results["seeds"].values())]
    if not cells:
        return "\n".join(lines) + "\n"
    lines += ["", f"| metric | untuned | {' | '.join(cells)} |", f"| --- | --- |{' --- |' * len(cells)}"]
    for seed, entry in results["seeds"].items():
        rows = entry["cells"]
        for metric in next(iter(rows.values())):
            first = next(iter(rows.values()))[metric]
            scale = 100.0 if first["percent"] else 1.0
            shown = [_estimate(first["before"], scale)]
            shown += [_estimate(rows[cell][metric]["after"], scale) if cell in rows else "" for cell in cells]
            lines.append(f"| {metric}, seed {seed} | {' | '.join(shown)} |")
    lines += ["", f"| mean over seeds | untuned | {' | '.join(cells)} |", f"| --- | --- |{' --- |' * len(cells)}"]
    done = [entry["cells"] for entry in results["seeds"].values() if all(cell in entry["cells"] for cell in cells)]
    for metric in done[0][cells[0]] if done else ():
        scale = 100.0 if done[0][cells[0]][metric]["percent"] else 1.0
        columns = [[rows[cells[0]][metric]["before"]["value"] for rows in done]]
        columns += [[rows[cell][metric]["after"]["value"] for rows in done] for cell in cells]
        shown = [_mean([value * scale for value in values]) for values in columns]
        lines.append(f"| {metric} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _estimate(estimate: dict[str, Any] | None, scale: float) -> str:
    return "" if estimate is None else _interval(estimate["value"], estimate["low"], estimate["high"], scale)


def _interval(value: float, low: float, high: float, scale: float) -> str:
    digits = 1 if scale > 1 else 2
    return f"{value * scale:.{digits}f} [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS)[:4])
    parser.add_argument("--model", type=Path, default=model_path(), help="the demo model, or another folder")
    parser.add_argument("--images", type=int, default=600, help="scenes that pairs are built from")
    parser.add_argument("--test", type=int, default=300, help="held-out scenes")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--sft-weight", type=float, default=0.0, help="SFT term beside DPO (the demo recipe has 1.5)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--omission-share", type=float, default=0.0, help="mmpo's own counterweight; HA-DPO has none")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--style-only", action="store_true", help="build and probe, train nothing")
    parser.add_argument("--quick", action="store_true", help="12 scenes, 2 steps: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.images, args.test, args.steps, args.batch_size, args.resamples = 12, 12, 2, 4, 200
    given = {key: str(value) for key, value in vars(args).items() if key not in ("out", "seeds", "cells", "style_only")}
    kept = args.out / "arguments.json"
    if kept.exists() and read_json(kept) != given:
        raise SystemExit(f"{args.out} was begun with other arguments: {kept}")
    write_json(kept, given)
    results: dict[str, Any] = {"arguments": given, "cells": args.cells, "seeds": {}}
    wanted = BUILDS if args.style_only else dict.fromkeys(CELLS[cell] for cell in args.cells)
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        entry: dict[str, Any] = {"style": {}, "builds": {}, "cells": {}}
        results["seeds"][str(seed)] = entry
        for name in wanted:
            result = built(args, folder, name, seed)
            entry["builds"][name] = result.model_dump(exclude={"style"})
            entry["style"][name] = result.style.model_dump() if result.style else None
            print(
                f"seed {seed}, {name}: {result.style.line() if result.style else 'too few pairs to probe'}", flush=True
            )
        for cell in () if args.style_only else args.cells:
            adapter = trained(args, folder, cell, seed)
            entry["cells"][cell] = evaluated(args, folder, cell, seed, adapter)
            print(f"seed {seed}, {cell}: measured", flush=True)
            for checkpoint in (folder / "train" / cell).glob("checkpoint*"):
                shutil.rmtree(checkpoint, ignore_errors=True)
        write_json(args.out / "results.json", results)
        write_text(args.out / "table.md", table(results))
    print(table(results))
    print(json.dumps({"results": str(args.out / "results.json"), "table": str(args.out / "table.md")}))


if __name__ == "__main__":
    main()
