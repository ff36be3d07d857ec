"""What does it cost to watch attention while a model writes? Time and memory against plain generation and against
`output_attentions=True`.

    python benchmarks/attention.py [--images 5] [--side 24] [--tokens 32] [--prompts 3] [--layers 12] [--json OUT]
                                   [--device cpu|cuda] [--dtype float32|bfloat16] [--hidden 512] [--skip-full]

A LLaVA with random weights and LLaVA-1.5's layout: by default 5 images of 24 x 24 = 576 tokens in a prompt. Four ways,
each in a process of its own, on the same prompts, answers of the same length (no end token):

    shared          mmpo's generation
    watched         the same, with the attention of one layer onto the image tokens
    plain           `model.generate` of transformers, SDPA
    full            `model.generate(output_attentions=True)`, eager, as the released code of MIA-DPO does

Ratios: watched / shared, full / plain, and watched / full. Both attentions are compared where both are there. Memory is
the peak of the process beyond what model and libraries take (CPU: resident size; CUDA: allocated).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import command_line, in_own_process, peak_mib
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import model_tensors
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.generation.generate import PromptGroup, answering, generate_shared
from mmpo.models.generation.probe import ProbeSpec, image_columns
from tests.tiny import tiny_image, tiny_llava, user

WAYS = ("shared", "watched", "plain", "full")


def model(args: argparse.Namespace) -> VLM:
    heads = max(4, args.hidden // 64)
    vlm = tiny_llava(
        image_size=14 * args.side,
        patch_size=14,
        text={
            "hidden_size": args.hidden,
            "intermediate_size": args.hidden * 11 // 4,
            "num_hidden_layers": args.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": 32000,
            "max_position_embeddings": 16384,
            "initializer_range": 0.02,
        },
        vision={"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4},
    )
    vlm.base.generation_config.eos_token_id = [vlm.config.text_config.vocab_size - 1]
    vlm.model.to(args.device, getattr(torch, args.dtype))
    return vlm


def groups(vlm: VLM, args: argparse.Namespace) -> list[PromptGroup]:
    """Prompts with their own pictures each."""
    made = []
    for number in range(args.prompts):
        size = (14 * args.side, 14 * args.side)
        processed = process_images(vlm, [tiny_image(number * args.images + i, size) for i in range(args.images)])
        text = f"In Image{1 + number % args.images}, what is on the left?"
        prompt = encode_prompt(vlm, user(text, args.images), processed.placeholders)
        made.append(PromptGroup([prompt], processed.tensors, args.images))
    return made


def answer(vlm: VLM, group: PromptGroup, way: str, tokens: int) -> torch.Tensor | None:
    """One prompt answered; the attention of the middle layer onto image tokens, where the way has it."""
    spec = ProbeSpec().resolved(vlm)
    if way in ("shared", "watched"):
        probe = spec if way == "watched" else None
        return generate_shared(vlm, [group], max_new_tokens=tokens, probe=probe)[0][0].attention
    prompt = torch.tensor([group.prompts[0]], device=vlm.device)
    tensors = {
        key: value.to(vlm.device, vlm.dtype if value.is_floating_point() else None)
        for key, value in model_tensors(vlm, group.tensors).items()
    }
    out = vlm.base.generate(  # type: ignore[operator]
        input_ids=prompt, attention_mask=torch.ones_like(prompt), **tensors, do_sample=False, max_new_tokens=tokens,
        output_attentions=way == "full", output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    if way != "full":
        return None
    rows = torch.stack([step[spec.layers[0]][0].mean(0)[-1, : prompt.shape[1]] for step in out.attentions[1:]])
    return rows.float().mean(0)[image_columns(vlm, group.prompts[0])][None].cpu()


def memory(device: str) -> float:
    """Peak MiB so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One way in this process."""
    torch.set_num_threads(args.threads)
    vlm = model(args)
    if args.way == "full":
        vlm.base.set_attn_implementation({"text_config": "eager"})
    prompts = groups(vlm, args)
    with answering(vlm.model):
        warm = process_images(vlm, [tiny_image(0)])
        ids = encode_prompt(vlm, user("What?", 1), warm.placeholders)
        answer(vlm, PromptGroup([ids], warm.tensors, 1), args.way, 3)
        before = memory(args.device)
        seconds, maps = [], []
        for group in prompts:
            started = time.perf_counter()
            maps.append(answer(vlm, group, args.way, args.tokens))
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    seen = [one.flatten().tolist() for one in maps if one is not None]
    return {
        "way": args.way, "seconds": [round(one, 4) for one in seconds], "median": statistics.median(seconds),
        "peak_mib": memory(args.device), "added_mib": memory(args.device) - before, "maps": seen,
        "prompt_tokens": len(prompts[0].prompts[0]),
    }  # fmt: skip


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--side", type=int, default=24, help="patches on a side of an image")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=1, help="repeat the four ways in turn and take medians")
    parser.add_argument("--skip-full", action="store_true")
    parser.add_argument("--way", choices=WAYS, help="internal: one way in this process")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run(args)))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for way in WAYS:
            if way == "full" and args.skip_full:
                continue
            found.setdefault(way, []).append(in_own_process(__file__, [*sys.argv[1:], "--way", way]))
    times = {way: statistics.median(t for one in runs for t in one["seconds"]) for way, runs in found.items()}
    added, peaks = (
        {way: statistics.median(one[key] for one in runs) for way, runs in found.items()}
        for key in ("added_mib", "peak_mib")
    )
    tokens = found["shared"][0]["prompt_tokens"]
    print(f"{args.images} images, {tokens} prompt and {args.tokens} answer tokens, {args.layers} layers, {args.device}")
    for way in found:
        print(f"{way:8} {times[way]:8.2f} s   peak {peaks[way]:8.0f} MiB   beyond the model {added[way]:8.0f} MiB")
    ratios = {"watched/shared time": times["watched"] / times["shared"],
              "watched/shared peak memory": peaks["watched"] / peaks["shared"]}  # fmt: skip
    if "full" in found:
        ratios |= {
            "full/plain time": times["full"] / times["plain"],
            "full/plain peak memory": peaks["full"] / peaks["plain"],
            "full/watched time": times["full"] / times["watched"],
            "full/watched added memory": added["full"] / max(1.0, added["watched"]),
        }
        pairs = zip(found["watched"][0]["maps"], found["full"][0]["maps"], strict=True)
        ratios["largest difference of the attentions"] = max(
            abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)
        )
    for name, value in ratios.items():
        print(f"{name}: {value:.3g}")
    if args.json:
        kept = {way: [{k: v for k, v in one.items() if k != "maps"} for one in runs] for way, runs in found.items()}
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "way")}
        report = {"settings": settings, "torch": torch.__version__, "runs": kept, "ratios": ratios}
        write_json(args.json, report)


if __name__ == "__main__":
    in_one_line(main)
