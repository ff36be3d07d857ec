"""HA-DPO against plain DPO on un-rewritten pairs and against SFT on the chosen side, on the demo world.

    python benchmarks/ha_dpo_demo.py --out runs/ha_dpo_demo [--seeds 0 1 2] [--cells …] [--style-only] [--quick]

Cells, each from the same descriptions and the same questions of the untuned model:

    ha_dpo      the annotated objects in the sentences of the description against the description, both worded by one
                writer; DPO with the auxiliary loss (lambda 0.5) on exact captions of other scenes
    no_aux      the same pairs, DPO alone (lambda 0, as HA-DPO trains LLaVA-1.5 and InstructBLIP)
    plain_dpo   the same corrections as another writer puts them (`The image contains …`), not rewritten; DPO alone
    sft         the chosen sides of ha_dpo, no rejected side
    edited      the description with its mistakes edited out and nothing added, against the description; DPO alone
    captions, captions_raw    the annotator's caption, rewritten and as it was written; DPO alone

Equal steps, batch, learning rate and adapter. Measured on held-out scenes against the untuned model: wrong claims by
kind, CHAIR with recall and length, POPE (three splits), SHR by rules. Killed and run again it goes on; no finished cell
is done again. Writes results.json and table.md: per seed the scorecards' values with their intervals, over seeds mean
and standard deviation.
`--style-only` builds and probes alone: how well style tells the sides apart with and without the rewriting step.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.data.convert.hadpo import DESCRIBE
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildResult, BuildSettings
from mmpo.demo import model_path
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_text

BUILDS: dict[str, dict[str, Any]] = {
    "edited": {},
    "captions": {"correction": "caption"},
    "captions_raw": {"correction": "caption", "rewrite": False},
    "template": {"correction": "template"},
    "template_raw": {"correction": "template", "rewrite": False},
}
CELLS = {"ha_dpo": "template", "no_aux": "template", "plain_dpo": "template_raw", "sft": "template",
         "edited": "edited", "captions": "captions", "captions_raw": "captions_raw"}  # fmt: skip
METRICS: tuple[cells.Metric, ...] = (
    *cells.CLAIMS,
    ("chair", "CHAIRi", None), ("chair", "CHAIRs", None), ("chair", "Recall", None), ("chair", "Len", None),
    ("pope", "F1", "random"), ("pope", "F1", "popular"), ("pope", "F1", "adversarial"),
    ("pope", "yes_ratio", "adversarial"),
    ("shr", "hal_sents_ratio", None),
)  # fmt: skip


def built(args: argparse.Namespace, folder: Path, name: str, seed: int) -> BuildResult:
    """The pairs of one build; what the model says is shared by all builds of a seed."""
    settings = BuildSettings.model_validate(cells.own_descriptions(args, folder, seed) | BUILDS[name])
    return build(settings, folder / "build" / name, generations=folder / "generations")


def cell_of(args: argparse.Namespace, folder: Path, name: str, seed: int) -> cells.Cell:
    """How a cell is trained on the pairs of its build."""
    objective: dict[str, Any] = {"sft": {}} if name == "sft" else {"dpo": {"beta": args.beta}}
    if name != "sft" and args.sft_weight:
        objective["sft"] = {"weight": args.sft_weight}
    auxiliary = {}
    if name == "ha_dpo":
        objective["auxiliary"] = {"weight": args.auxiliary_weight}
        auxiliary = {"auxiliary": {"data": captioned(cells.draw(folder, "dev", args.images, seed))}}
    shared = cells.equal_training(args, folder / "build" / CELLS[name] / "pairs", seed)
    return cells.Cell(name, {**shared, "objective": objective, **auxiliary})


def captioned(split: Path) -> Path:
    """The exact captions of a split as LLaVA conversations, each with one of HA-DPO's four instructions."""
    lines = []
    for row in map(json.loads, (split / "annotations.jsonl").read_text().splitlines()):
        question = random.Random(row["id"]).choice(DESCRIBE)
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": row["captions"][0]}]
        lines.append(json.dumps({"id": row["id"], "image": row["image"], "conversations": turns}) + "\n")
    path = split / "captions.jsonl"
    write_text(path, "".join(lines))
    return path


def evaluated(args: argparse.Namespace, folder: Path, name: str, seed: int, adapter: str) -> dict[str, Any]:
    """The cell on held-out scenes."""
    settings = cells.held_out(args, folder, seed, adapter, ["claims", "pope", "chair", "shr"])
    settings["shr"] = {"judged_by": "rules", "max_new_tokens": 96}
    return cells.measured(folder / "eval", name, settings, METRICS)


def style_table(seeds: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: how well style tells the sides of each build apart, with 95% intervals."""
    lines = [
        "| build, seed | pairs | style AUROC | wording AUROC | length AUROC | with object words | chosen longer by |",
        "| --- | ---: | --- | --- | --- | --- | ---: |",
    ]
    for seed, entry in seeds.items():
        for name, probe in entry["style"].items():
            if probe is None:
                lines.append(f"| {name}, {seed} | too few | | | | | |")
                continue
            columns = [
                f"{found['auroc']:.2f} [{found['auroc_low']:.2f}, {found['auroc_high']:.2f}]"
                for found in (probe[kind] for kind in ("style", "wording", "length", "all"))
            ]
            lines.append(
                f"| {name}, {seed} | {probe['pairs']} | {' | '.join(columns)} | {probe['longer_by']:+.2f} words |"
            )
    return "\n".join(lines) + "\n"


def table(results: Mapping[str, Any]) -> str:
    """The style probe of each build, then a row for each metric and a column for each cell."""
    measurements = {seed: entry["cells"] for seed, entry in results["seeds"].items()}
    return "\n".join(filter(None, (style_table(results["seeds"]), cells.tables(measurements, results["cells"]))))


def main() -> None:
    parser = cells.command_line(__doc__)
    cells.add_sizes(parser, images=300, test=80, steps=120, beta=0.1, rate=1.5e-4)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS)[:4])
    parser.add_argument("--sft-weight", type=float, default=0.0, help="SFT term beside DPO (the demo recipe has 1.5)")
    parser.add_argument("--auxiliary-weight", type=float, default=0.5, help="HA-DPO's lambda, of cell ha_dpo")
    parser.add_argument("--omission-share", type=float, default=0.0, help="mmpo's own counterweight; HA-DPO has none")
    parser.add_argument("--style-only", action="store_true", help="build and probe, train nothing")
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        cells.make_quick(args)
    given = cells.open_comparison(args.out, args, free=("out", "seeds", "cells", "style_only"))
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
        for name in () if args.style_only else args.cells:
            run = cell_of(args, folder, name, seed).trained(folder)
            entry["cells"][name] = evaluated(args, folder, name, seed, run["adapter"])
            print(f"seed {seed}, {name}: measured", flush=True)
        cells.save(args.out, results, table(results))
    print(table(results))


if __name__ == "__main__":
    in_one_line(main)
