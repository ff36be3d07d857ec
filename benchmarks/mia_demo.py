"""MIA-DPO on the demo world: does it help with several images, and what do its parts do?

    python benchmarks/mia_demo.py --out runs/mia_demo [--seeds 0 1 2] [--cells …] [--quick]

One build a seed (the demo model answers about sequences, collages and pictures in a picture made of single scenes); all
cells select from its candidates, so they differ in selection alone:

    mia             attention filter and post-selection, all layouts
    no_attention    without the attention filter
    no_post         without post-selection (perplexity)
    sequence, collage, pic_in_pic     one layout alone, otherwise as `mia`
    gamma_0         as `mia`, DPO alone (the released command's gamma)

Equal steps, batch, learning rate and adapter; a cell whose pairs are fewer than a batch is left out and named. Measured
on held-out scenes against the untuned model: multi-image questions by layout (accuracy, interference, invention,
confusion of images) and single-image POPE (three splits). The demo model was trained on sequences of two and three
scenes, never on collages or pictures in a picture. Its processor crops pictures to squares, which would hide most of a
collage, so a copy that pads is used throughout. Killed and run again it goes on; no finished cell is done again.
Writes results.json and table.md: per seed with 95% intervals, then mean and deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cells import Cell, Metric, draw, measured, open_comparison, tables
from mmpo.data.atomic import read_json, write_json, write_text
from mmpo.data.shards import PairWriter, count_pairs, read_pairs
from mmpo.data_builders.mia_build import build, reselect
from mmpo.data_builders.mia_settings import MiaBuildResult, MiaSettings
from mmpo.demo import model_path
from mmpo.demo.language import questions
from mmpo.demo.world import world_split

LABEL = "Image{n}: "
LAYOUTS = ("sequence", "collage", "pic_in_pic")
CELLS: dict[str, dict[str, Any]] = {
    "mia": {},
    "no_attention": {"attention": False},
    "no_post": {"min_perplexity": None},
    "sequence": {},
    "collage": {},
    "pic_in_pic": {},
    "gamma_0": {},
}
METRICS: tuple[Metric, ...] = (
    *(("multi_image", "accuracy", split) for split in (*LAYOUTS, "all layouts")),
    *(("multi_image", "interference", split) for split in LAYOUTS),
    *(("multi_image", "invention", split) for split in LAYOUTS),
    *(("multi_image", "confusion", split) for split in ("sequence", "collage")),
    *(("pope", "accuracy", split) for split in ("random", "popular", "adversarial")),
    ("pope", "mean_accuracy", "all splits"),
)


def padding(model: Path, out: Path) -> Path:
    """A copy of the model whose processor pads pictures to a square instead of cropping them, as LLaVA's own code does.
    Square pictures, all that the demo model was trained on, come out the same."""
    folder = out / "model"
    if not (folder / "config.json").exists():
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("results"), dirs_exist_ok=True)
        path = folder / "processor_config.json"
        config = read_json(path)
        config["image_processor"] |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
        write_json(path, config)
    return folder


def records(folder: Path, images: int, seed: int) -> Path:
    """Questions about single scenes with right answers, as a file of records."""
    world = draw(folder, "train", images, seed)
    path = world / "records.jsonl"
    if not path.exists():
        rows = []
        names = [json.loads(line)["image"] for line in (world / "annotations.jsonl").read_text().splitlines()]
        for name, scene in zip(names, world_split("train", images, seed), strict=True):
            rng = np.random.default_rng((seed, *scene.seed, 11))
            for number, turn in enumerate(questions(scene, rng)):
                rows.append({"id": f"{Path(name).stem}-{number}", "image": name,
                             "question": turn.question, "answer": turn.answer})  # fmt: skip
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def built(args: argparse.Namespace, folder: Path, seed: int) -> MiaBuildResult:
    """All candidates of a seed, and the pairs of the cell `mia`."""
    settings = MiaSettings.model_validate(
        {
            "builder": "mia",
            "model": str(args.model),
            "data": records(folder, args.images, seed),
            "limit": args.records,
            "sequence": {"sizes": {2: 2, 3: 1}, "label": LABEL},
            "collage": {"sizes": {2: 3, 4: 1}, "targets": {4: 2}, "noise": args.collage_noise},
            "pic_in_pic": {"noise": args.inner_noise},
            "attention": {"regions": "exact"},
            "selection": {
                "min_seen": args.min_seen,
                "min_perplexity": args.min_perplexity,
                "drop_right": True,  # "Yes, … in Image2" against "Yes, … in the image" says nothing
            },
            "max_new_tokens": 48,
            "seed": seed,
        }
    )
    return build(settings, folder / "build")


def pairs_of(folder: Path, cell: str) -> Path:
    """The folder of a cell's pairs."""
    if cell in ("mia", "gamma_0"):
        return folder / "build" / "pairs"
    out = folder / "pairs" / cell
    if (out / "card.json").exists():
        return out
    if cell in LAYOUTS:
        with PairWriter(out, recipe={"layout": cell, "of": "mia"}) as writer:
            kept = [pair for pair in read_pairs(folder / "build" / "pairs") if pair.provenance["layout"] == cell]
            for pair in kept[writer.sources_done :]:
                writer.add(pair)
    else:
        reselect(folder / "build", out, CELLS[cell])
    return out


def training(args: argparse.Namespace, pairs: Path, cell: str, seed: int) -> dict[str, Any]:
    """The training settings of a cell."""
    objective: dict[str, Any] = {"dpo": {"beta": args.beta}}
    if cell != "gamma_0":
        objective["sft"] = {"weight": args.gamma, "per": "token"}
    return {
        "model": str(args.model),
        "pairs": pairs,
        "objective": objective,
        "learning_rate": args.learning_rate,
        "max_steps": args.steps,
        "batch_size": args.batch_size,
        "lora": {"rank": 16},
        "samples": {"n": 0},
        "seed": seed,
    }


def evaluation(args: argparse.Namespace, folder: Path, adapter: str, seed: int) -> dict[str, Any]:
    """What is measured, before and after."""
    test = draw(folder, "test", args.test, seed)
    return {
        "model": str(args.model),
        "adapter": adapter,
        "annotations": str(test / "annotations.jsonl"),
        "benchmarks": ["multi_image", "pope"],
        "chair": {"vocabulary": str(test / "vocabulary.json")},
        "multi_image": {"prompts": args.prompts, "label": LABEL, "max_new_tokens": 16},
        "bootstrap": {"samples": args.resamples},
        "cache": str(folder / "answers"),  # the untuned model is asked once a seed
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--model", type=Path, default=model_path(), help="the demo model, or another folder")
    parser.add_argument("--images", type=int, default=500, help="scenes that records are made of")
    parser.add_argument("--records", type=int, default=2000, help="records used, each once a layout")
    parser.add_argument("--test", type=int, default=300, help="held-out scenes")
    parser.add_argument("--prompts", type=int, default=150, help="multi-image prompts a layout")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--gamma", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--min-perplexity", type=float, default=1.1)
    parser.add_argument("--min-seen", type=float, default=0.5, help="targets cropped away more than that drop out")
    parser.add_argument("--collage-noise", type=float, default=225.0)
    parser.add_argument("--inner-noise", type=float, default=49.0)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a few scenes, 2 steps: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.images, args.records, args.test, args.prompts = 16, 24, 14, 4
        args.steps, args.batch_size, args.resamples = 2, 2, 200
    given = open_comparison(args.out, args, ("out", "seeds", "cells"))
    args.model = padding(args.model, args.out)
    results: dict[str, Any] = {"arguments": given, "builds": {}, "pairs": {}, "left_out": {}, "seeds": {}}
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        results["builds"][str(seed)] = built(args, folder, seed).model_dump(mode="json")
        rows: dict[str, Any] = {}
        results["seeds"][str(seed)] = rows
        for cell in args.cells:
            pairs = pairs_of(folder, cell)
            count = count_pairs(pairs)
            results["pairs"][f"{cell}, {seed}"] = count
            if count < args.batch_size:
                results["left_out"][f"{cell}, {seed}"] = f"{count} pairs"
                continue
            run = Cell(cell, training(args, pairs, cell, seed)).trained(folder)
            rows[cell] = measured(folder, f"eval/{cell}", evaluation(args, folder, run["adapter"], seed), METRICS)
            print(f"seed {seed}, {cell}: {count} pairs, measured", flush=True)
        write_json(args.out / "results.json", results)
        write_text(args.out / "table.md", _report(results, args.cells))
    print(read_json(args.out / "results.json")["pairs"])
    print(_report(results, args.cells))


def _report(results: dict[str, Any], cells: list[str]) -> str:
    """Markdown: where the model looked, how many pairs, what changed."""
    lines = ["| prompts, seed | answers | mean ratio | uniform | threshold | kept |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for seed, result in results["builds"].items():
        for kind, row in result["ratios"].items():
            kept = result["counts"][f"answers, {kind}"]["paired"]
            lines.append(
                f"| {kind}, {seed} | {row['answers']:.0f} | {row['ratio']:.3f} | {row['uniform']:.3f} | "
                f"{row['threshold']:.3f} | {kept} |"
            )
    left = [f"{cell}: {why}" for cell, why in results["left_out"].items()]
    return "\n".join([*lines, "", *left, "", tables(results["seeds"], cells)])


if __name__ == "__main__":
    main()
