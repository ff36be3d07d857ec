"""MIA-DPO on the demo world: does it help with several images, and what do its parts do?

    python benchmarks/mia_demo.py --out runs/mia_demo [--seeds 0 1 2] [--cells …] [--model FOLDER] [--quick]

The model is the shipped demo model after the stage of `tools.demo_models.multi_image_stage` (sequences, collages and
pictures in pictures, told by an annotator who looks at the wrong picture at times), trained once into the folder, or
the one of `--model`. One build a seed: the model answers questions about single scenes and describes them, each in a
sequence of two or three, in a collage of two or four, and inside another scene. All cells select from these answers, so
they differ in selection alone:

    mia             attention filter (`--times-uniform`) and post-selection, all layouts
    no_attention    without the attention filter
    no_post         without post-selection (perplexity)

and, where `--cells` names them,

    sequence, collage, pic_in_pic     one layout alone, otherwise as `mia`
    thresholds      the released code's thresholds, which were made for another model, instead of `--times-uniform`
    gamma_0         as `mia`, DPO alone (the released command's gamma)

Equal steps, batch, learning rate and adapter; a cell whose pairs are fewer than a batch, or the same as an earlier
cell's, is left out and named. Measured on held-out scenes against the model before: multi-image questions by layout
(accuracy, interference, invention, confusion of images), and of single images POPE (three splits) and wrong claims of
descriptions. Larger collages are left out, as the model sees 128 x 128 pixels. Its processor pads pictures to squares;
the shipped one crops them, which would hide most of a collage. Killed and run again it goes on; no finished cell is
done again. Writes results.json and table.md: per seed with 95% intervals, then mean and deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.chat.video_rules import polarity
from mmpo.data.shards import PairWriter, count_pairs, read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.mia.build import reselect
from mmpo.data_builders.mia.ratio import chosen_part
from mmpo.data_builders.mia.settings import MiaBuildResult, MiaSettings
from mmpo.demo.language import Turn, ask_existence, describe, questions
from mmpo.demo.scene import Scene
from mmpo.demo.things import THINGS
from mmpo.demo.world import world_split
from mmpo.errors import in_one_line
from mmpo.files.atomic import read_json, write_text
from mmpo.statistics import auroc
from tools.demo_models.multi_image_stage import LABEL, SIZES, Plan, pad_pictures, train

LAYOUTS = ("sequence", "collage", "pic_in_pic")
CELLS: dict[str, dict[str, Any]] = {
    "mia": {},
    "no_attention": {"attention": False},
    "no_post": {"min_perplexity": None},
    "sequence": {},
    "collage": {},
    "pic_in_pic": {},
    "thresholds": {"times_uniform": None},
    "gamma_0": {},
}
METRICS: tuple[cells.Metric, ...] = (
    *(("multi_image", "accuracy", split) for split in (*LAYOUTS, "all layouts")),
    *(("multi_image", "missed", split) for split in LAYOUTS),
    *(("multi_image", "interference", split) for split in LAYOUTS),
    *(("multi_image", "invention", split) for split in LAYOUTS),
    *(("multi_image", "confusion", split) for split in ("sequence", "collage")),
    *(("pope", "accuracy", split) for split in ("random", "popular", "adversarial")),
    ("pope", "mean_accuracy", "all splits"),
    *cells.CLAIMS,
)


def prepared(args: argparse.Namespace) -> Path:
    """The model of the comparison: `--model`, or the demo model after its stage with several pictures. In either case
    a copy whose processor pads."""
    if args.model is None:
        folder: Path = args.out / "several" / "model"
        if not (folder / "processor_config.json").exists():
            train(folder.parent, Plan(steps=args.several_steps))
        return folder
    folder = args.out / "model"
    if not (folder / "config.json").exists():
        shutil.copytree(args.model, folder, ignore=shutil.ignore_patterns("results"), dirs_exist_ok=True)
        pad_pictures(folder)
    return folder


def records(folder: Path, images: int, seed: int) -> Path:
    """Questions about single scenes with right answers, as a file of records."""
    world = cells.draw(folder, "train", images, seed)
    path = world / "records.jsonl"
    if not path.exists():
        rows = []
        names = [json.loads(line)["image"] for line in (world / "annotations.jsonl").read_text().splitlines()]
        for name, scene in zip(names, world_split("train", images, seed), strict=True):
            rng = np.random.default_rng((seed, *scene.seed, 11))
            for number, turn in enumerate(said(scene, rng)):
                rows.append({"id": f"{Path(name).stem}-{number}", "image": name,
                             "question": turn.question, "answer": turn.answer})  # fmt: skip
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Two descriptions, questions of every kind, and three more about absent objects: what a prompt's other pictures
    show is absent from the target. All answers are right."""
    absent = [thing for thing in THINGS if thing not in scene.things]
    more = [ask_existence(scene, str(thing), rng) for thing in rng.choice(absent, size=3, replace=False)]
    return [describe(scene, rng), describe(scene, rng, brief=True), *questions(scene, rng), *more]


def built(args: argparse.Namespace, folder: Path, seed: int) -> MiaBuildResult:
    """All candidates of a seed, and the pairs of the cell `mia`."""
    settings = MiaSettings.model_validate(
        {
            "builder": "mia",
            "model": str(args.model),
            "data": records(folder, args.images, seed),
            "limit": args.records,
            "sequence": {"sizes": dict.fromkeys(SIZES["sequence"], 1.0), "label": LABEL},
            "collage": {"sizes": dict.fromkeys(SIZES["collage"], 1.0), "targets": {4: 2}, "noise": args.collage_noise},
            "pic_in_pic": {"noise": args.inner_noise},
            # The last row of the prompt decides a yes or no, which is most answers here.
            "attention": {"regions": "exact", "predictive": True},
            "selection": {
                "min_seen": args.min_seen,
                "times_uniform": args.times_uniform,
                "min_perplexity": args.min_perplexity,
                "drop_right": True,  # "Yes, … in Image2" against "Yes, … in the image" says nothing
            },
            "max_new_tokens": 48,
            "seed": seed,
        }
    )
    return build(settings, folder / "build")


def looked_and_wrong(build_folder: Path) -> dict[str, dict[str, float]]:
    """By layout, over the questions answered by yes or no: how many answers there are, how many are wrong, and how well
    a low ratio tells the wrong ones (area under the curve; 0.5 is chance)."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for path in sorted((build_folder / "units").glob("*.json")):
        for outcome in read_json(path)["outcomes"]:
            for candidate in outcome["candidates"]:
                right, given = polarity(candidate["chosen"]), polarity(candidate["rejected"])
                if right and given and candidate["parts"]:
                    part = candidate["parts"][chosen_part(candidate["layout"], "mean", "exact")]
                    found.setdefault(candidate["layout"], []).append((-part["ratio"], right != given))
    return {layout: _told(np.array(rows)) for layout, rows in found.items()}


def _told(rows: np.ndarray) -> dict[str, float]:
    wrong = rows[:, 1].astype(bool)
    area = float(auroc(rows[:, 0], wrong)) if 0 < wrong.sum() < len(wrong) else 0.5
    return {"answers": len(rows), "wrong": int(wrong.sum()), "auroc": area}


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
    return {**cells.equal_training(args, pairs, seed), "objective": objective, "eval_fraction": 0.0}


def evaluation(args: argparse.Namespace, folder: Path, adapter: str, seed: int) -> dict[str, Any]:
    """What is measured, before and after."""
    settings = cells.held_out(args, folder, seed, adapter, ["multi_image", "pope", "claims"])
    return settings | {"multi_image": {"prompts": args.prompts, "label": LABEL, "max_new_tokens": 16}}


def main() -> None:
    parser = cells.command_line(__doc__)
    cells.add_sizes(parser, images=50, test=60, steps=50, beta=0.1, rate=1e-3)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS)[:3])
    parser.add_argument("--several-steps", type=int, default=Plan.steps, help="of training tools.demo_models' model")
    parser.add_argument("--records", type=int, default=500, help="records used, each once a layout")
    parser.add_argument("--prompts", type=int, default=60, help="multi-image prompts a layout")
    parser.add_argument("--gamma", type=float, default=0.1)
    parser.add_argument(
        "--times-uniform", type=float, default=1.0, help="greatest ratio over that of uniform attention"
    )
    parser.add_argument("--min-perplexity", type=float, default=1.1)
    parser.add_argument("--min-seen", type=float, default=0.5, help="targets cropped away more than that drop out")
    parser.add_argument("--collage-noise", type=float, default=225.0)
    parser.add_argument("--inner-noise", type=float, default=49.0)
    args = parser.parse_args()
    if args.quick:
        args.images, args.records, args.test, args.prompts = 16, 24, 14, 4
        args.steps, args.batch_size, args.resamples, args.several_steps = 2, 2, 200, 1
    given = cells.open_comparison(args.out, args, ("out", "seeds", "cells"))
    args.model = prepared(args)
    results: dict[str, Any] = {"arguments": given, "builds": {}, "told": {}, "pairs": {}, "left_out": {}, "seeds": {}}
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        results["builds"][str(seed)] = built(args, folder, seed).model_dump(mode="json")
        results["told"][str(seed)] = looked_and_wrong(folder / "build")
        rows: dict[str, Any] = {}
        results["seeds"][str(seed)] = rows
        trained: dict[tuple[str, ...], str] = {}
        for cell in args.cells:
            pairs = pairs_of(folder, cell)
            count = count_pairs(pairs)
            results["pairs"][f"{cell}, {seed}"] = count
            if count < args.batch_size:
                results["left_out"][f"{cell}, {seed}"] = f"{count} pairs"
                continue
            ids = tuple(pair.id for pair in read_pairs(pairs))
            if (other := trained.setdefault(ids, cell)) != cell and cell != "gamma_0":
                results["left_out"][f"{cell}, {seed}"] = f"the same pairs as {other}"
                continue
            run = cells.Cell(cell, training(args, pairs, cell, seed)).trained(folder)
            rows[cell] = cells.measured(folder, f"eval/{cell}", evaluation(args, folder, run["adapter"], seed), METRICS)
            print(f"seed {seed}, {cell}: {count} pairs, measured", flush=True)
            cells.save(args.out, results, _report(results, args.cells))
    print(_report(results, args.cells))


def _report(results: Mapping[str, Any], wanted: list[str]) -> str:
    """Markdown: where the model looked, what that says about its answers, how many pairs, what changed."""
    lines = ["| prompts, seed | answers | mean ratio | uniform | threshold | kept |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for seed, result in results["builds"].items():
        for kind, row in result["ratios"].items():
            kept = result["counts"][f"answers, {kind}"].get("paired", 0)
            lines.append(
                f"| {kind}, {seed} | {row['answers']:.0f} | {row['ratio']:.3f} | {row['uniform']:.3f} | "
                f"{row['threshold']:.3f} | {kept} |"
            )
    lines += ["", "| yes and no, seed | answers | wrong | AUROC of a low ratio |", "| --- | ---: | ---: | ---: |"]
    for seed, by_layout in results["told"].items():
        for layout, row in by_layout.items():
            lines.append(f"| {layout}, {seed} | {row['answers']} | {row['wrong']} | {row['auroc']:.2f} |")
    lines += ["", f"| pairs | {' | '.join(wanted)} |", f"| --- |{' ---: |' * len(wanted)}"]
    for seed in results["seeds"]:
        counts = [str(results["pairs"].get(f"{cell}, {seed}", "")) for cell in wanted]
        lines.append(f"| seed {seed} | {' | '.join(counts)} |")
    left = [f"{cell}: {why}" for cell, why in results["left_out"].items()]
    return "\n".join(
        [*lines, "", *left, "", cells.tables(results["seeds"], wanted), *_told_apart(results["seeds"], wanted)]
    )


def _told_apart(seeds: Mapping[str, Mapping[str, Any]], wanted: list[str]) -> list[str]:
    """Markdown: right answers on objects that the target shows and on those that only another picture shows, half and
    half, in percent. One answer to everything gets 50, whatever it is; accuracy alone rewards saying no."""

    def share(rows: Mapping[str, Any], cell: str, layout: str, state: str) -> float:
        wrong = [rows[cell][f"multi_image {layout} {name}"][state]["value"] for name in ("missed", "interference")]
        return 100 * (1 - sum(wrong) / 2)

    shown = [cell for cell in wanted if any(cell in rows for rows in seeds.values())]
    whole = [rows for rows in seeds.values() if shown and all(cell in rows for cell in shown)]
    if not whole:
        return []
    lines = [
        f"| target and others told apart | untuned | {' | '.join(shown)} |",
        f"| --- |{' ---: |' * (len(shown) + 1)}",
    ]
    for layout in LAYOUTS:
        columns = [[share(rows, shown[0], layout, "before") for rows in whole]]
        columns += [[share(rows, cell, layout, "after") for rows in whole] for cell in shown]
        lines.append(
            f"| {layout} | {' | '.join(f'{np.mean(c):.1f} ± {np.std(c, ddof=len(c) > 1):.1f}' for c in columns)} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    in_one_line(main)
