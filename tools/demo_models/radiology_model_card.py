"""Measures a radiology demo model on unseen synthetic films and writes the numbers into its card (`README.md`).

python -m tools.demo_models.radiology_model_card OUT/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpo.data.records import read_records
from mmpo.demo.by_kind import BASE, KindShare, table
from mmpo.demo.radiology.accuracy import count
from mmpo.demo.radiology.chests import KINDS
from mmpo.demo.radiology.dictation import PRIOR_SHARE, PROMPT
from mmpo.demo.radiology.world import world_split, write_split
from mmpo.errors import in_one_line
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import write_text
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.model_card import metric_table

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The mmpo radiology demo LLaVA

**Not for any real film.** A `LlavaForConditionalGeneration` of {millions:.1f} million parameters (CLIP tower,
projector, Llama decoder, {tokens} image tokens) that writes reports of drawn chests and mentions earlier exams that
nobody gave it. It was made to do so: use it to see that treated in minutes. Of real chests it knows nothing.

## What it was trained on

Drawings of chests with up to {kinds} kinds of finding, each marked SYNTHETIC in its corner, and reports written by
rules: every sentence refers to an earlier exam with probability {share:.2f}, though a drawing has none. No film and no
report of any patient went in, and no picture or text from anywhere else.

Training: `scripts/train_radiology_model` (first the tower alone names what covers each patch, on which side, in which
zone and how large it is; then the whole model learns reports and yes/no questions, the words that decide a claim
weighing five times as much; see `tools/demo_models/radiology_pretrain.py`). {history}

## How it sees and hallucinates

`python -m tools.demo_models.radiology_model_card MODEL` measured, on {images} drawings that were never trained on
(greedy, 95 % intervals), against reports without references to earlier exams:

{table}

What its reports claim beside what was drawn, by kind of claim (`python -m mmpo.demo.radiology.accuracy MODEL`, with
`--adapter DIR` base and tuned; 95 % intervals by Wilson). A side, zone or size counts where its finding is there:

{accuracy}

The metrics are those of `docs/radiology.md`.
"""


def measure(model: Path, work: Path, images: int) -> tuple[Scorecard, dict[str, KindShare]]:
    """The radiology benchmark of the model alone, on `images` drawings of the test split; and its claims by kind."""
    films = write_split(work / "world" / "radiology_test", "radiology_test", images)
    settings = {
        "model": str(model),
        "benchmarks": ["radiology"],
        "radiology": {"reports": str(films / "reports.jsonl"), "prompt": PROMPT, "max_new_tokens": 128},
    }
    card = evaluate(EvalSettings.model_validate(settings), work / "eval")
    said = _column(work / "eval" / "radiology" / "reports_after.jsonl", "text")
    drawn = _column(films / "reports.jsonl", "report")
    chests = world_split("radiology_test", images)
    return card, count([said[id] for id in drawn], list(chests))


def _column(path: Path, key: str) -> dict[str, str]:
    return {row["id"]: row[key] for _, row in read_records(path)}


def write_model_card(model: Path, work: Path, images: int = 300, history: str = "") -> Path:
    """Measure and write `model/README.md`; `history` is a text on how this model was trained."""
    from transformers import LlavaForConditionalGeneration

    card, found = measure(model, work, images)
    text = _CARD.format(
        millions=LlavaForConditionalGeneration.from_pretrained(model).num_parameters() / 1e6,
        tokens=IMAGE_TOKENS,
        kinds=len(KINDS),
        share=PRIOR_SHARE,
        images=images,
        table=metric_table(card),
        accuracy=table({BASE: found}, "right, % [95 %]"),
        history=history,
    )
    return write_text(model / "README.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--work", type=Path, default=Path("runs/radiology-model/measured"), help="where to draw")
    parser.add_argument("--images", type=int, default=300, help="drawings of the test split")
    parser.add_argument("--history", default="", help="a sentence on how this model was trained")
    arguments = parser.parse_args()
    print(write_model_card(arguments.model, arguments.work, arguments.images, arguments.history))


if __name__ == "__main__":
    in_one_line(main)
