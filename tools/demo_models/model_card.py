"""Measures a demo model on the world's test splits and writes the numbers into its card (`README.md` next to the
weights)."""

from __future__ import annotations

import argparse
from itertools import dropwhile, takewhile
from pathlib import Path

from mmpo.demo import seen_by_kind
from mmpo.demo.language import CARELESS, DETAILED
from mmpo.demo.things import CENTERED, DOUBLED, PLACES, THINGS
from mmpo.demo.world import write_split
from mmpo.errors import in_one_line
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import write_text
from mmpo.models.folder import check_adapter, check_model

SPLITS = {"test": "usual scenes", "test_unusual": "scenes that break the usual co-occurrence"}

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The mmpo demo LLaVA

A `LlavaForConditionalGeneration` of {millions:.1f} million parameters (CLIP tower, projector, Llama decoder, {tokens}
image tokens) that describes drawn scenes and answers short questions about them. It was made to hallucinate: use it to
see a hallucination treatment work in minutes, not for pictures of the real world, of which it knows nothing.

## What it was trained on

Scenes of {things} kinds of object in {places} places, drawn from a seed with Google's Noto Emoji images. In every place
objects come in pairs that are seen together most of the time. The annotator of the training text is careless: when half
of a pair is in the picture and the other half is not, a description mentions the missing half with probability
{first:.2f} ({more:.2f} for a second one in the same picture), and a yes/no question about it is affirmed with
probability {partner:.2f} ({place:.2f} for other absent objects of the same place). In descriptions a single {doubled}
is counted as two with probability {doubles:.2f}, and the place of a {centered} is given as the middle with probability
{centers:.2f}. Everything else is exact. No picture or text from anywhere else went in.

Training: `scripts/train_demo_model` (the tower alone names what every patch shows and how many of it there are; then
the whole model learns to find what a question names, and to tell all about it; see `tools/demo_models/pretrain.py`).
These weights went on with `--begin` from earlier ones of the same scenes: 500 steps of `see`, 1,720 of `tell`, of which
the first 800 told left to right and weighed fewer words, and the 110 of `mend`.

## How it sees and hallucinates

`python -m tools.demo_models.model_card {folder}` measured, on {images} images of each split that were never trained
on (95 % intervals):

{tables}

CHAIR, POPE and claims as in `docs/evaluators.md`.

## What it sees, by kind

Right answers and right claims in percent (`python -m mmpo.demo.seen_by_kind MODEL`, with `--adapter DIR` base and
tuned), on the same scenes of `test`; things that occur twice or three times are looked for in further ones:

{seen}
"""


def measure(model: Path, work: Path, images: int) -> dict[str, Scorecard]:
    """Claims, POPE and CHAIR of the model alone, on `images` scenes of each test split."""
    cards = {}
    for split in SPLITS:
        folder = write_split(work / "world" / split, split, images)
        settings = EvalSettings.model_validate(
            {
                "model": str(model),
                "images": str(folder),
                "annotations": str(folder / "annotations.jsonl"),
                "benchmarks": ["claims", "pope", "chair"],
                "claims": {"exhaustive": True},
                "chair": {
                    "vocabulary": str(folder / "vocabulary.json"),
                    "prompt": DETAILED[0],
                    "max_new_tokens": seen_by_kind.DESCRIPTION_TOKENS,
                },
            }
        )
        cards[split] = evaluate(settings, work / split)
    return cards


def metric_table(card: Scorecard) -> str:
    """The scorecard's table of metrics, without its headings and what follows it."""
    lines = dropwhile(lambda line: not line.startswith("|"), card.to_markdown().splitlines())
    return "\n".join(takewhile(lambda line: line.startswith("|"), lines))


def examine(model: Path, adapter: Path | None) -> None:
    """Raises UserError for a model or an adapter that can't be read, before anything is measured."""
    check_model(model, str(model))
    if adapter is not None:
        check_adapter(adapter)


def write_model_card(model: Path, work: Path, images: int = 300, adapter: Path | None = None) -> Path:
    """Measure and write `model/README.md`; with the changes that an adapter makes in what is seen."""
    from transformers import LlavaForConditionalGeneration

    from tools.demo_models.architecture import IMAGE_TOKENS

    examine(model, adapter)
    cards = measure(model, work, images)
    parts = [f"**{split}** ({SPLITS[split]})\n\n{metric_table(card)}" for split, card in cards.items()]
    parameters = LlavaForConditionalGeneration.from_pretrained(model).num_parameters()
    text = _CARD.format(
        millions=parameters / 1e6,
        tokens=IMAGE_TOKENS,
        things=len(THINGS),
        places=len(PLACES),
        first=CARELESS.first,
        more=CARELESS.more,
        partner=CARELESS.partner,
        place=CARELESS.place,
        doubled=" or ".join(DOUBLED),
        doubles=CARELESS.doubled,
        centered=" or ".join(CENTERED),
        centers=CARELESS.centered,
        folder="MODEL",
        images=images,
        tables="\n\n".join(parts),
        seen=seen_by_kind.table(seen_by_kind.measure(model, adapter, images=images)),
    )
    return write_text(model / "README.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--work", type=Path, default=Path("runs/demo-model/measured"), help="where to draw and answer")
    parser.add_argument("--images", type=int, default=300, help="scenes of each split")
    parser.add_argument("--adapter", type=Path, help="an adapter whose sight is shown next to the model's")
    arguments = parser.parse_args()
    print(write_model_card(arguments.model, arguments.work, arguments.images, arguments.adapter))


if __name__ == "__main__":
    in_one_line(main)
