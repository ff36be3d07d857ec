"""What comparisons on the demo world share: a world drawn once, cells that are trained and measured once, tables.

A comparison is a set of cells (name -> how it is trained) that see the same pairs, the same number of steps and the
same evaluation, over several seeds. Everything finished is on disk and not done again.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.demo import model_path
from mmpo.demo.world import write_split
from mmpo.files.atomic import read_json, write_json, write_text

Metric = tuple[str, str, str | None]
"""Benchmark, metric, split, as in a scorecard."""

CLAIMS: tuple[Metric, ...] = (
    ("claims", "wrong", None),
    *(("claims", "wrong", kind) for kind in ("object", "count", "place", "color")),
    ("claims", "repeats", None),
)
"""Of descriptions of the demo world: what is false in all they say, and what is named again."""

DESCRIPTIONS: dict[str, Any] = {"prompt": "Describe this image in detail.", "max_new_tokens": 96}
"""How they are asked for."""


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's own text, with what every comparison takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", type=Path, help="the folder of another model than the comparison's own")
    parser.add_argument("--quick", action="store_true", help="a few scenes, 2 steps: does it run?")
    return parser


def add_sizes(parser: argparse.ArgumentParser, *, images: int, test: int, steps: int, beta: float, rate: float) -> None:
    """Arguments of the comparisons of objectives on the demo world, with their defaults."""
    parser.add_argument("--images", type=int, default=images, help="scenes that pairs are built from")
    parser.add_argument("--test", type=int, default=test, help="held-out scenes (of each kind)")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--beta", type=float, default=beta)
    parser.add_argument("--learning-rate", type=float, default=rate)
    parser.add_argument("--resamples", type=int, default=2000)


def make_quick(args: argparse.Namespace) -> None:
    args.images, args.test, args.steps, args.batch_size, args.resamples = 12, 12, 2, 4, 200


def open_comparison(out: Path, arguments: argparse.Namespace, free: Sequence[str]) -> dict[str, str]:
    """The arguments for the comparison's results, which name no folder of this machine. Ends the program if it was
    begun with others; those named in `free` (which cells, which seeds) may differ."""
    given = {key: str(value) for key, value in vars(arguments).items() if key not in free}
    kept = out / "arguments.json"
    if kept.exists() and read_json(kept) != given:
        raise SystemExit(f"{out} was begun with other arguments: {kept}")
    write_json(kept, given)
    if "model" in given:
        given["model"] = "the demo model" if Path(arguments.model) == model_path() else Path(arguments.model).name
    return given


def save(out: Path, results: Mapping[str, Any], table: str) -> None:
    write_json(out / "results.json", results)
    write_text(out / "table.md", table)


def draw(folder: Path, split: str, images: int, seed: int) -> Path:
    """A split of the demo world, drawn once."""
    path = folder / "world" / split
    if not (path / "annotations.jsonl").exists():
        write_split(path, split, images, seed)
    return path


def own_descriptions(args: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Settings of builds from the model's own descriptions of the seed's scenes."""
    train = draw(folder, "train", args.images, seed)
    return {
        "model": str(args.model),
        "annotations": train / "annotations.jsonl",
        "vocabulary": str(train / "vocabulary.json"),
        "max_new_tokens": 96,
        "exhaustive": True,
        "omission_share": args.omission_share,
        "seed": seed,
    }


def equal_training(args: argparse.Namespace, pairs: Path, seed: int) -> dict[str, Any]:
    """The training settings that all cells share."""
    return {
        "model": str(args.model),
        "pairs": pairs,
        "learning_rate": args.learning_rate,
        "max_steps": args.steps,
        "batch_size": args.batch_size,
        "lora": {"rank": 16},
        "samples": {"n": 0},
        "seed": seed,
    }


def held_out(
    args: argparse.Namespace, folder: Path, seed: int, adapter: str, benchmarks: Sequence[str], split: str = "test"
) -> dict[str, Any]:
    """Evaluation settings on held-out scenes."""
    scenes = draw(folder, split, args.test, seed)
    return {
        "model": str(args.model),
        "adapter": adapter,
        "annotations": str(scenes / "annotations.jsonl"),
        "benchmarks": list(benchmarks),
        "claims": {"exhaustive": True},
        "chair": {"vocabulary": str(scenes / "vocabulary.json"), **DESCRIPTIONS},
        "bootstrap": {"samples": args.resamples},
        "cache": str(folder / "answers"),  # the untuned model is asked once a seed
    }


@dataclass(frozen=True)
class Cell:
    """One adapter: `train` are its training settings."""

    name: str
    train: Mapping[str, Any]

    def trained(self, folder: Path) -> dict[str, Any]:
        """Train it in `folder`, once; what the run said of itself."""
        from mmpo.trainers.settings import TrainSettings
        from mmpo.trainers.train import train

        run = folder / "train" / self.name
        done = run / "done.json"
        if not done.exists():
            result = train(TrainSettings.model_validate(self.train), run)
            write_json(done, result.model_dump())
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        return {**read_json(done), "adapter": str(run / "adapter")}


def measured(folder: Path, name: str, settings: Mapping[str, Any], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Evaluate once in `folder/name`; the metrics with their intervals, before and after."""
    from mmpo.eval.harness import evaluate
    from mmpo.eval.settings import EvalSettings
    from mmpo.eval.statistics.scorecard import Scorecard

    run = folder / name
    if not (run / "scorecard.json").exists():
        evaluate(EvalSettings.model_validate(settings), run)
    return picked(Scorecard.read(run / "scorecard.json"), metrics)


def picked(card: Any, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The metrics of a scorecard with their intervals, before and after."""
    found: dict[str, Any] = {}
    for benchmark, metric, split in metrics:
        row = card.row(benchmark, metric, split)
        found[" ".join(filter(None, (benchmark, split, metric)))] = {
            "percent": row.percent,
            "before": row.before.model_dump() if row.before else None,
            "after": row.after.model_dump(),
            "change": row.change.model_dump() if row.change else None,
        }
    return found


def tables(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], cells: Sequence[str]) -> str:
    """Markdown: for every seed and metric the value of each cell with its interval, then mean and spread over seeds.
    `seeds[seed][cell][metric]` as `measured` returns it."""
    shown = [cell for cell in cells if any(cell in rows for rows in seeds.values())]
    if not shown:
        return ""
    head = f"| {' | '.join(['untuned', *shown])} |"
    lines = [f"| metric, seed {head}", f"| --- |{' --- |' * (len(shown) + 1)}"]
    for seed, rows in seeds.items():
        if not rows:
            continue
        first = next(iter(rows.values()))
        for metric in first:
            scale = 100.0 if first[metric]["percent"] else 1.0
            values = [_estimate(first[metric]["before"], scale)]
            values += [_estimate(rows[cell][metric]["after"], scale) if cell in rows else "" for cell in shown]
            lines.append(f"| {metric}, {seed} | {' | '.join(values)} |")
    whole = [rows for rows in seeds.values() if all(cell in rows for cell in shown)]
    if not whole:
        return "\n".join(lines) + "\n"
    lines += ["", f"| mean ± deviation over {len(whole)} seed(s) {head}", f"| --- |{' --- |' * (len(shown) + 1)}"]
    for metric, example in whole[0][shown[0]].items():
        scale = 100.0 if example["percent"] else 1.0
        columns = [[rows[shown[0]][metric]["before"]["value"] for rows in whole]]
        columns += [[rows[cell][metric]["after"]["value"] for rows in whole] for cell in shown]
        lines.append(f"| {metric} | {' | '.join(_mean(column, scale) for column in columns)} |")
    return "\n".join(lines) + "\n"


def _estimate(estimate: Mapping[str, Any] | None, scale: float) -> str:
    if estimate is None:
        return ""
    digits = 1 if scale > 1 else 2
    value, low, high = (estimate[key] * scale for key in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _mean(values: Sequence[float], scale: float) -> str:
    digits = 1 if scale > 1 else 2
    values = [value * scale for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
