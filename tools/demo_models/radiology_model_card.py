"""Measures a radiology demo model on unseen synthetic films and writes the numbers into its card (`README.md`).

python -m tools.demo_models.radiology_model_card OUT/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpo.demo.by_kind import table
from mmpo.demo.radiology import accuracy
from mmpo.demo.radiology.chests import KINDS
from mmpo.demo.radiology.dictation import PRIOR_SHARE, PROMPT
from mmpo.demo.radiology.world import write_split
from mmpo.errors import in_one_line
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import write_text
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.model_card import examine, metric_table

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
`--adapter DIR` base and tuned, here by one run of the demo; 95 % intervals by Wilson). A side, zone or size counts
where its finding is there:

{accuracy}

The metrics are those of `docs/radiology.md`.
"""


def measure(model: Path, work: Path, images: int) -> Scorecard:
    """The radiology benchmark of the model alone, on `images` drawings of the test split."""
    films = write_split(work / "world" / "radiology_test", "radiology_test", images)
    settings = {
        "model": str(model),
        "benchmarks": ["radiology"],
        "radiology": {"reports": str(films / "reports.jsonl"), "prompt": PROMPT, "max_new_tokens": 128},
    }
    return evaluate(EvalSettings.model_validate(settings), work / "eval")


def write_model_card(
    model: Path, work: Path, images: int = 300, history: str = "", adapter: Path | None = None
) -> Path:
    """Measure and write `model/README.md`; `history` is a text on how this model was trained, and the claims are also
    counted with an adapter."""
    from transformers import LlavaForConditionalGeneration

    examine(model, adapter)
    card = measure(model, work, images)
    text = _CARD.format(
        millions=LlavaForConditionalGeneration.from_pretrained(model).num_parameters() / 1e6,
        tokens=IMAGE_TOKENS,
        kinds=len(KINDS),
        share=PRIOR_SHARE,
        images=images,
        table=metric_table(card),
        accuracy=table(accuracy.measure(model, adapter, images), "right, % [95 %]"),
        history=history,
    )
    return write_text(model / "README.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--work", type=Path, default=Path("runs/radiology-model/measured"), help="where to draw")
    parser.add_argument("--images", type=int, default=300, help="drawings of the test split")
    parser.add_argument("--adapter", type=Path, help="an adapter whose claims are shown next to the model's")
    parser.add_argument("--history", default="", help="a sentence on how this model was trained")
    arguments = parser.parse_args()
    print(write_model_card(arguments.model, arguments.work, arguments.images, arguments.history, arguments.adapter))


if __name__ == "__main__":
    in_one_line(main)
