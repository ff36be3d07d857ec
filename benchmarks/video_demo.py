"""`mmpo demo video` over several seeds: made-up events and judged answers before and after, and what rewards are worth.

    python benchmarks/video_demo.py --out runs/video_demo [--seeds 0 1 2] [--model DIR] [--quick]

Every seed draws its own clips, builds pairs from rewards, trains and evaluates (the recipe `video-demo`). Finished
seeds are not done again. Writes results.json and table.md: each metric with its 95% interval, mean and standard
deviation over seeds, and how far three judges by rules agree with the exact annotation
(`tools.demo_models.video_agreement`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells
from mmpo.errors import in_one_line
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import read_json
from tools.demo_models.video_agreement import measure, table

METRICS = (
    ("video_qa", "accuracy", None), ("video_qa", "score", None), ("video_qa", "hallucination", None),
    ("video_qa", "false_events", None), ("video_qa", "absent_objects", None),
    ("temporal", "basic", None), ("temporal", "hallucination", None), ("temporal", "overall", None),
    ("temporal", "yes_ratio", None),
)  # fmt: skip


def run(out: Path, seed: int, model: Path | None, quick: bool) -> Path:
    """The finished run of a seed."""
    folder = out / f"seed{seed}"
    if not (folder / "results.json").exists():
        command = [sys.executable, "-m", "mmpo", "demo", "video", "--seed", str(seed), "--out", str(folder)]
        command += ["--model", str(model)] if model else []
        subprocess.run([*command, *(["--quick"] if quick else [])], check=True)
    return folder


def main() -> None:
    arguments = cells.command_line(__doc__).parse_args()
    seeds: dict[str, Any] = {}
    rewards: dict[str, Any] = {}
    text = []
    for seed in arguments.seeds:
        folder = run(arguments.out, seed, arguments.model, arguments.quick)
        seeds[f"seed {seed}"] = {"tuned": cells.picked(Scorecard.read(folder / "eval" / "scorecard.json"), METRICS)}
        found = measure(folder)
        built = read_json(folder / "build" / "build_result.json")
        rewards[f"seed {seed}"] = {
            "agreement": {name: one.as_json() for name, one in found.items()},
            "build": {name: built[name] for name in ("images", "images_used", "pairs_made", "scores", "counts")},
        }
        text.append(f"Seed {seed}: {built['pairs_made']} pairs from {built['images']} clips.\n\n{table(found)}")
    whole = f"{cells.tables(seeds, ['tuned'])}\nRewards beside the exact annotation:\n\n" + "\n".join(text)
    cells.save(arguments.out, {"metrics": seeds, "rewards": rewards}, whole)
    print(whole)


if __name__ == "__main__":
    in_one_line(main)
