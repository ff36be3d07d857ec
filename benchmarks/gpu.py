"""Everything to look at on the day there is a GPU, in under ten minutes.

    python benchmarks/gpu.py [--sizes 1b 7b] [--json OUT]
    python benchmarks/gpu.py --quick --device cpu       # a toy size, to see that it runs

1. Exactness. Every way to attend to a tree (plain, flex, varlen) against ordinary rows: the mean difference of a
   token's log-prob; a way that this machine can't do says why. Shared answers against `generate`, one by one; and
   whether a sample is the same alone as in a batch.
2. Speed, models of random weights. Answers: 36 questions about two images, the engine beside `generate` one by one.
   Samples: ten of an image beside ten calls. New tokens a second, and the share of the bound: the time of one plain
   forward over each distinct token once, towers included.
3. Training: the row `llava-1.5` of `benchmarks/training.py`, TRL's trainer and the bound beside it.

Each part stands by itself: one that fails prints its error, and the next begins.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.answering import ask_one, questions
from benchmarks.measuring import command_line
from benchmarks.speed.layouts import LAYOUTS, quick
from benchmarks.speed.models import build, sized
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import process_images
from mmpo.models.families.vision import encode_images
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.scoring.score import PairScorer
from mmpo.models.tree.backends import Attention
from tests.models.pairs import pair_batch
from tests.tiny import tiny_image

ANSWER, SAMPLE, SAMPLES = 16, 64, 10
PROMPT = "Describe the image."


def attention_differences(make: Callable[[], VLM]) -> dict[str, float | str]:
    """By way to attend: the mean difference of a token's log-prob from that of ordinary rows, or why there is none."""
    vlm = make()
    batch = pair_batch(vlm).to(vlm.device)
    with torch.no_grad():
        expected = PairScorer(vlm, sharing="off", reference="none")(batch).chosen
        found: dict[str, float | str] = {}
        for name in get_args(Attention)[1:]:  # without "auto"
            try:
                logps = PairScorer(vlm, sharing="on", reference="none", attention=name)(batch).chosen.policy
                found[name] = ((logps - expected.policy).abs().sum() / expected.mask.sum()).item()
            except Exception as error:  # a kernel that this machine hasn't
                found[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of the second of two runs: the first warms up."""
    seconds, result = 0.0, None
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds, result


def bound(vlm: VLM, images: list[Any], text_tokens: int) -> float:
    """Seconds of the tower over `images`, and of one plain forward of the language model, head included, over a row of
    their tokens and so many others."""
    shown = process_images(vlm, images)
    count = sum(map(len, shown.placeholders)) + text_tokens
    ids = torch.randint(0, 100, (1, count), device=vlm.device)

    def work() -> None:
        with torch.inference_mode():
            encode_images(vlm, shown.tensors, frozen=True)
            vlm.head(vlm.base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, -text_tokens:])

    return timed(work, vlm.device)[0]


def generating(vlm: VLM, toy: bool) -> dict[str, Any]:
    """Speed and exactness of answers and samples."""
    size = (112, 112) if toy else (448, 336)
    each, samples = (3, 3) if toy else (18, SAMPLES)
    answer, sample = (4, 4) if toy else (ANSWER, SAMPLE)
    vlm.base.generation_config.eos_token_id = [vlm.config.get_text_config().vocab_size]  # none ends early
    engine = AnswerEngine(vlm, max_new_tokens=answer, sharing="on")
    images = [tiny_image(n, size) for n in range(2)]
    groups = [(image, questions(each, n)) for n, image in enumerate(images)]
    alone_s, alone = timed(
        lambda: [
            ask_one(vlm, image, text, do_sample=False, max_new_tokens=answer) for image, own in groups for text in own
        ],
        vlm.device,
    )
    shared_s, shared = timed(lambda: list(engine.answer(groups)), vlm.device)
    differing = [s for s, ids in zip(shared, alone, strict=True) if list(s.token_ids) != ids]
    made = sum(len(s.token_ids) for s in shared)
    best = bound(vlm, images, made + 12 * len(shared))
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": sample}
    calls_s, _ = timed(lambda: [ask_one(vlm, images[0], PROMPT, **options) for _ in range(samples)], vlm.device)

    def sampled(k: int) -> list[Any]:
        return next(engine.sample_many([(images[0], PROMPT)], k, max_new_tokens=sample))

    samples_s, drawn = timed(lambda: sampled(samples), vlm.device)
    sample_bound = bound(vlm, images[:1], samples * sample + 12)
    return {
        "answers": {
            "tokens_per_s": made / shared_s,
            "generate_tokens_per_s": made / alone_s,
            "share_of_bound": best / shared_s,
            "different": len(differing),
            "of": len(shared),
            "largest_margin_of_different": max((s.margin for s in differing), default=0.0),
        },
        "samples": {
            "tokens_per_s": samples * sample / samples_s,
            "generate_tokens_per_s": samples * sample / calls_s,
            "share_of_bound": sample_bound / samples_s,
            "different": sampled(1)[0].token_ids != drawn[0].token_ids,
            "of": 1,
            "largest_margin_of_different": drawn[0].margin,
        },
    }


def training(size: str, device: str, dtype: torch.dtype, arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.speed.sides import Setting
    from benchmarks.training import run_row

    layout = replace(quick(LAYOUTS["llava-1.5"]) if arguments.quick else LAYOUTS["llava-1.5"], pairs=2)
    return run_row(Setting(layout, sized(size, None), device, dtype), arguments)


def part(name: str, work: Callable[[], Any], results: dict[str, Any]) -> Any:
    """The result of a part, None where it fails; both are kept and told."""
    start = time.perf_counter()
    try:
        results[name] = found = work()
    except Exception as error:
        found, results[name] = None, {"error": f"{type(error).__name__}: {error}"}
        print(f"{name}: FAILED: {results[name]['error']}", flush=True)
    print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device = arguments.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}", flush=True)
    results: dict[str, Any] = {"machine": name, "torch": torch.__version__}
    small = part(
        "attention", lambda: attention_differences(lambda: build("llava", sized("quick", None), device=device,
                                                                 dtype=dtype)), results,
    )  # fmt: skip
    for way, difference in (small or {}).items():
        print(f"{way}: {difference if isinstance(difference, str) else f'{difference:.2g} nats a token'}")
    print("| size | work | tokens/s or pairs/s: plain generate or TRL | mmpo | share of the bound | different |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for size in ["quick"] if arguments.quick else arguments.sizes:
        made = part(
            f"{size} generation",
            lambda size=size: generating(build("llava", sized(size, None), device=device, dtype=dtype),
                                         arguments.quick), results,
        )  # fmt: skip
        for work, row in (made or {}).items():
            print(
                f"| {size} | {work} | {row['generate_tokens_per_s']:.0f} | {row['tokens_per_s']:.0f} | "
                f"{row['share_of_bound']:.2f} | {row['different']:d} of {row['of']} (margin up to "
                f"{row['largest_margin_of_different']:.2g}) |",
                flush=True,
            )
        if device == "cuda":
            torch.cuda.empty_cache()
        row = part(f"{size} training", lambda size=size: training(size, device, dtype, arguments), results)
        if row is not None:
            speed = row["pairs_per_second"]
            trl = f"{speed['trl']:.2f}" if "trl" in speed else "can't"
            print(f"| {size} | training | {trl} | {speed['mmpo']:.2f} | {row['share_of_bound']:.2f} | same loss |")
    return results


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=["1b", "7b"], default=["1b", "7b"])
    parser.set_defaults(rounds=2, no_memory=True)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --quick --device cpu shows that the script runs")
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("1B and 7B models are for a GPU: add --quick")
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    results = run(arguments)
    results["seconds"] = time.perf_counter() - start
    print(f"{results['seconds']:.0f} s in all")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    in_one_line(main)
