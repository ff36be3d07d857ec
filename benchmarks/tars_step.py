"""What a TARS step costs: over a DPO step on the same pairs, and over the same terms computed as separate rows.

    python benchmarks/tars_step.py [--quick] [--json OUT] [--batch 2] [--rounds 7] [--threads N]

A random LLaVA with the token layout of LLaVA-1.5: 576 image tokens, 70 prompt tokens, 100 + 100 response tokens, one
image a pair, LoRA on the language model, float32. Every contender runs its real step: collate (perturbation and image
corruption included), reference with the adapter off, policy, loss, backward.

    dpo             chosen and rejected
    tars            the paper's: both under the perturbed question and, for the spectral term, under the clean one
    tars 4          the same with the worst of four perturbations
    tars_official   the released code's: both disturbed, the chosen one of these about a noisy image, both clean
    … rows          the same loss, one ordinary row for every response, each with its own pass of the image through the
                    tower: how the released code does it. It also computes a sixth row, the rejected answer about the
                    noisy image, which no term reads; so does `tars_official rows`. (Its reference encodes every image
                    again; not counted here.)

Steps are interleaved and ratios taken round by round, so that other load on the machine meets all alike. Contenders
that compute the same loss must agree on its value.
"""

# ruff: noqa: E402  (the environment must be set before torch and transformers are imported)
from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.measuring import command_line, seconds_in_turns
from benchmarks.speed.layouts import digits
from mmpo.data.pair import PreferencePair
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.views.view_maker import view_maker
from mmpo.types import ViewSpec
from tests.tiny import add_lora, save_tiny_llava, tiny_image, tiny_llava

SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "text": {
            "vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
            "num_attention_heads": 6, "num_key_value_heads": 6, "initializer_range": 0.02,
        },
        "vision": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3},
        "image_size": 336, "patch_size": 14, "prompt_tokens": 60, "response_tokens": 100,
    },
    "quick": {
        "text": {
            "vocab_size": 2_000, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.02,
        },
        "vision": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2},
        "image_size": 112, "patch_size": 14, "prompt_tokens": 24, "response_tokens": 30,
    },
}  # fmt: skip

OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"dpo": {}},
    "tars": {"tars": {}},
    "tars 4": {"tars": {"candidates": 4}},
    "tars_official": {"tars_official": {"layer": 1}},
}
ROWS = " rows"
NEVER_READ = ViewSpec("rejected_disturbed_corrupted", "rejected", prompt="disturbed", image="corrupted")
"""The released code's sixth row."""
CONTENDERS = ["dpo", "tars", "tars rows", "tars 4", "tars_official", "tars_official rows"]

Step = Callable[[], float]


@dataclass
class Ground:
    """One model, one set of pairs, for every contender."""

    vlm: VLM
    store: ImageStore
    pairs: EncodedPairs
    folder: Path


def build(size: dict[str, Any], batch: int, folder: Path) -> Ground:
    options = {key: size[key] for key in ("image_size", "patch_size", "text", "vision")}
    save_tiny_llava(folder / "model", 0, **options)
    vlm = add_lora(tiny_llava(0, **options), r=8, spread=0.01)
    vlm.source = str(folder / "model")
    store = ImageStore(vlm, 1 << 30)
    examples = [
        PreferencePair.simple(
            id=str(i),
            image=encode_image(tiny_image(i, (size["image_size"] + 24, size["image_size"]))),
            question=" ".join(digits(9 * i + k, 5) for k in range(size["prompt_tokens"] // 6)),
            chosen=digits(3 * i + 1, size["response_tokens"] - 2),
            rejected=digits(3 * i + 2, size["response_tokens"] - 2),
        )
        for i in range(batch)
    ]
    return Ground(vlm, store, encode_pairs(vlm, examples, store, words=True), folder)


def contender(ground: Ground, name: str) -> Step:
    spec = OBJECTIVES[name.removesuffix(ROWS)]
    objective = build_objective(spec)
    perturbed = any(view.prompt == "perturbed" for view in objective.views)
    settings = TrainSettings.model_validate(
        {
            "model": ground.vlm.source,
            "pairs": ground.folder,
            "objective": spec,
            # A third of the words, as a flat ranking selects; the count changes no length.
            "perturbation": {"omega": 1e9, "cap": 0.34} if perturbed else None,
        }
    )
    maker = view_maker(settings, objective, ground.vlm, ground.store, ground.pairs.rows)
    separate = name.endswith(ROWS)
    if separate and maker is not None and name.startswith("tars_official"):
        maker.views = (*maker.views, NEVER_READ)
    collate = PairCollator(ground.store, maker.add if maker is not None else None)
    sharing, kl = "off" if separate else "on", "kl" in objective.reads
    scorer = PairScorer(ground.vlm, sharing=sharing, hidden=objective.hidden, kl=kl)
    scorer.train()

    def step() -> float:
        batch = collate(ground.pairs.rows)["batch"]
        loss = objective.loss(scorer(an_image_a_row(batch) if separate else batch))
        loss.backward()
        ground.vlm.model.zero_grad(set_to_none=True)
        return float(loss)

    return step


def an_image_a_row(batch: PairBatch) -> PairBatch:
    """The batch in which every row shows an image of its own, so that the tower sees one for each."""
    assert batch.image_tokens is not None
    shown: list[int] = []

    def own(index: list[list[int]]) -> list[list[int]]:
        rows = []
        for images in index:
            rows.append(list(range(len(shown), len(shown) + len(images))))
            shown.extend(images)
        return rows

    chosen, rejected = own(batch.image_index), own(batch.image_index)
    views = {name: replace(view, image_index=own(view.image_index)) for name, view in batch.views.items()}
    order = torch.tensor(shown)
    return replace(
        batch,
        image_index=chosen,
        rejected_prompt_ids=list(batch.prompt_ids),
        rejected_image_index=list(rejected),
        views=views,
        image_inputs={name: value[order] for name, value in batch.image_inputs.items()},
        image_tokens=[batch.image_tokens[k] for k in shown],
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    size = SIZES["quick" if arguments.quick else "full"]
    with tempfile.TemporaryDirectory() as folder:
        ground = build(size, arguments.batch, Path(folder))
        steps = {name: contender(ground, name) for name in CONTENDERS}
        losses = {name: step() for name, step in steps.items()}  # also the warm-up
        for name in steps:
            if abs(losses[name] - losses[name.removesuffix(ROWS)]) > 1e-4:
                raise RuntimeError(f"{name} does not compute what its twin computes: {losses}")
        seconds = seconds_in_turns(steps, arguments.rounds)
        row = ground.pairs.rows[0]
        image = ground.store.placeholder_tokens(row.images[0])
    text = size["text"]
    setting = (
        f"random LLaVA (hidden {text['hidden_size']}, {text['num_hidden_layers']} layers, vocabulary "
        f"{text['vocab_size']:,}), {arguments.batch} pairs a step, {image} image tokens in prompts of "
        f"{len(row.prompt)}, responses {len(row.chosen)} + {len(row.rejected)}, LoRA r=8, float32, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s)"
    )
    return {"setting": setting, "torch": torch.__version__, "losses": losses, "seconds": seconds, **ratios(seconds)}


def ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the ratios round by round."""

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    return {
        "over_dpo": {name: ratio(name, "dpo") for name in seconds if name != "dpo"},
        "rows_over_shared": {name: ratio(name + ROWS, name) for name in seconds if name + ROWS in seconds},
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [result["setting"], "", "| step | seconds | over DPO | as separate rows |", "| --- | ---: | ---: | ---: |"]
    for name, values in result["seconds"].items():
        over = result["over_dpo"].get(name)
        rows = result["rows_over_shared"].get(name)
        lines.append(
            f"| {name} | {statistics.median(values):.3f} | {'' if over is None else f'{over:.2f}x'} "
            f"| {'' if rows is None else f'{rows:.2f}x dearer'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--batch", type=int, default=2, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = run(arguments)
    print(markdown(result))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    in_one_line(main)
