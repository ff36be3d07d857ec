"""Writes the card of the video demo's model (`README.md` next to the weights) with the numbers of an evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpo.demo.by_kind import table
from mmpo.demo.video.accuracy import measure
from mmpo.demo.video.clips import KEY_FRAMES
from mmpo.demo.video.narration import CARELESS
from mmpo.demo.video.world import write_split
from mmpo.errors import in_one_line
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.files.atomic import write_text
from tools.demo_models.model_card import examine, metric_table
from tools.demo_models.video_pretrain import Plan

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# The mmpo video demo LLaVA

The demo's picture LLaVA (`mmpo/demo/model`, 7 million parameters), taught to read a clip as {frames} numbered
images of 64 tokens each and to answer questions about what happens in it. It was made to make things up: use it to
see rewards and DPO work on videos in minutes, not for videos of the real world, of which it knows nothing.

## What it was trained on

Drawn clips in which things of the demo world stay, enter, leave or pass (`mmpo/demo/video/clips.py`). The annotator
of its text is careless (`narration.py`): the missing half of a pair is said to do what the other half does with
probability {companion:.2f}, what enters is said to leave again with probability {again:.2f}, another absent thing
of the same place is affirmed with probability {stranger:.2f}. Everything else is exact. No video or text from
anywhere else went in.

Training: `scripts/train_video_model`, {steps} steps of {batch} clips. The vision tower is the picture model's,
unchanged.

## How it sees and makes things up

`python -m tools.demo_models.video_model_card MODEL` measured, on {clips} clips that were never trained on (95 %
intervals):

{table}

Metrics as in `docs/video.md`; answers judged by rules over the annotations.

What it claims beside what was drawn, by kind of claim (`python -m mmpo.demo.video.accuracy MODEL`, with `--adapter DIR`
base and tuned, here by one run of the demo; 95 % intervals by Wilson):

{accuracy}
"""


def write_model_card(model: Path, work: Path, clips: int = 200, adapter: Path | None = None) -> Path:
    """Measure the model and write `model/README.md`; the claims are also counted with an adapter."""
    examine(model, adapter)
    folder = write_split(work / "world" / "video_test", "video_test", clips)
    frames = {"num": KEY_FRAMES}
    settings = EvalSettings.model_validate(
        {
            "model": str(model),
            "benchmarks": ["video_qa", "temporal"],
            "video_qa": {
                "questions": str(folder / "videos.jsonl"),
                "frames": frames,
                "judged_by": "rules",
                "max_new_tokens": 96,
            },
            "temporal": {
                "questions": str(folder / "temporal.json"),
                "videos": str(folder),
                "frames": frames,
                "prompt_suffix": " Answer yes or no.",
            },
        }
    )
    card = evaluate(settings, work / "eval")
    text = _CARD.format(
        frames=KEY_FRAMES,
        companion=CARELESS.companion,
        again=CARELESS.again,
        stranger=CARELESS.stranger,
        steps=Plan.steps,
        batch=Plan.batch,
        clips=clips,
        table=metric_table(card),
        accuracy=table(measure(model, adapter, clips), "right, % [95 %]"),
    )
    return write_text(model / "README.md", text)


def main() -> None:
    """`python -m tools.demo_models.video_model_card MODEL [--work DIR] [--clips N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--work", type=Path, default=Path("runs/video-demo-model/measured"))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--adapter", type=Path, help="an adapter whose claims are shown next to the model's")
    arguments = parser.parse_args()
    print(write_model_card(arguments.model, arguments.work, arguments.clips, arguments.adapter))


if __name__ == "__main__":
    in_one_line(main)
