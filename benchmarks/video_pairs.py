"""One video pair of many frames: pairs a second and peak memory of shared scoring beside the two-row layout.

    python benchmarks/video_pairs.py [--frames 16] [--patches 12] [--rounds 5] [--quick] [--json OUT]

The model is a random-weights LLaVA with LoRA on the language model, float32; a frame takes patches x patches tokens
(144 by default). Both sides do a whole training step on the same pair: vision tower, policy, reference with the adapter
off, DPO loss, backward. Two rows: chosen and rejected as rows of their own, each with its frames encoded again for
policy and reference, head at the responses' positions only (kinder than full logits). Losses are compared first.
Steps take turns and medians are compared; peak memory is measured in a fresh process for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring import command_line, in_own_process, peak_mib, restart_peak, seconds_in_turns
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.scoring.score import PairBatch, PairScorer
from tests.tiny import add_lora, tiny_image, tiny_llava, user

BETA = 0.1
Step = Callable[[], float]


def model(patches: int, quick: bool) -> VLM:
    width = 64 if quick else 384
    text = {
        "vocab_size": 4_000 if quick else 32_000,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": 2 if quick else 8,
        "num_attention_heads": 4 if quick else 6,
        "num_key_value_heads": 4 if quick else 6,
        "initializer_range": 0.02,
        "max_position_embeddings": 16_384,
    }
    vision = {"hidden_size": 48 if quick else 192, "intermediate_size": 192 if quick else 768, "num_hidden_layers": 4}
    vlm = tiny_llava(image_size=14 * patches, patch_size=14, text=text, vision={**vision, "num_attention_heads": 3})
    return add_lora(vlm, spread=0.01)


def pair(vlm: VLM, frames: int, words: int) -> tuple[PairBatch, dict[str, Tensor]]:
    """A pair about `frames` distinct frames with random responses of `words` tokens, as token ids."""
    shown = process_images(vlm, [tiny_image(seed, (64, 48)) for seed in range(frames)])
    prompt = torch.tensor(encode_prompt(vlm, user("What happens in the video?", frames), shown.placeholders))
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randint(10, 300, (words,), generator=generator) for _ in range(2))
    batch = PairBatch(["1"], [prompt], [chosen], [rejected], shown.tensors, [list(range(frames))])
    return batch, shown.tensors


def dpo(chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor) -> Tensor:
    return -functional.logsigmoid(BETA * ((chosen - chosen_reference) - (rejected - rejected_reference))).mean()


def shared_step(vlm: VLM, batch: PairBatch) -> Step:
    scorer = PairScorer(vlm, sharing="on")

    def step() -> float:
        logps = scorer(batch)
        loss = dpo(
            logps.chosen.policy_sum, logps.rejected.policy_sum, logps.chosen.reference_sum, logps.rejected.reference_sum
        )
        loss.backward()
        vlm.model.zero_grad()
        return loss.item()

    return step


def two_row_step(vlm: VLM, batch: PairBatch, tensors: dict[str, Tensor]) -> Step:
    responses = torch.stack([batch.chosen_ids[0], batch.rejected_ids[0]])
    ids = torch.cat([batch.prompt_ids[0].expand(2, -1), responses], dim=1)
    doubled = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}
    words = responses.shape[1]

    def logps() -> Tensor:
        out = vlm.base(input_ids=ids, **doubled, use_cache=False, logits_to_keep=words + 1)
        scores = out.logits[:, :-1].float().log_softmax(-1)
        return scores.gather(-1, responses[..., None]).sum((1, 2))

    def step() -> float:
        with torch.no_grad(), vlm.adapter_off():
            reference = logps()
        policy = logps()
        loss = dpo(policy[:1], policy[1:], reference[:1], reference[1:])
        loss.backward()
        vlm.model.zero_grad()
        return loss.item()

    return step


def contenders(arguments: argparse.Namespace, only: str | None = None) -> dict[str, Step]:
    vlm = model(arguments.patches, arguments.quick)
    batch, tensors = pair(vlm, arguments.frames, arguments.words)
    vlm.model.train()
    made: dict[str, Callable[[], Step]] = {
        "two rows": lambda: two_row_step(vlm, batch, tensors),
        "shared": lambda: shared_step(vlm, batch),
    }
    return {name: make() for name, make in made.items() if only in (None, name)}


def growth_mib(step: Step) -> float:
    """Growth of this process's memory during two steps, above what model and pair take."""
    before = restart_peak()
    step(), step()
    return peak_mib() - before


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--patches", type=int, default=12, help="12 x 12 = 144 tokens a frame")
    parser.add_argument("--words", type=int, default=60, help="tokens of a response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(growth_mib(contenders(arguments, arguments.memory_of)[arguments.memory_of]))
        return
    steps = contenders(arguments)
    losses = {name: step() for name, step in steps.items()}
    seconds = seconds_in_turns(steps, arguments.rounds)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {name: in_own_process(__file__, [*sys.argv[1:], "--memory-of", name]) for name in steps}
    result: dict[str, Any] = {
        "frames": arguments.frames,
        "tokens_a_frame": arguments.patches**2,
        "losses": losses,
        "pairs_per_second": {name: round(1 / value, 3) for name, value in middle.items()},
        "speedup": round(middle["two rows"] / middle["shared"], 2),
        "peak_MiB": {name: round(value, 1) for name, value in memory.items()},
        "memory_ratio": round(memory["two rows"] / max(memory["shared"], 0.1), 2),
    }
    print(json.dumps(result, indent=2))
    if abs(losses["two rows"] - losses["shared"]) > 1e-3:
        raise SystemExit("the two layouts disagree")
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    in_one_line(main)
