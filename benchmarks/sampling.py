"""How much faster are K sampled descriptions of an image from one prefill than from K calls of `generate`?

    python benchmarks/sampling.py [--k 10] [--tokens 64] [--images 2] [--rounds 3] [--threads N] [--quick] [--json OUT]

A LLaVA with random weights and LLaVA-1.5's token layout (336 px, 576 image tokens, vocabulary 32,000), as in
answering.py. Three ways, each with preprocessing: K separate `generate` calls (what a loop over samples does), one
`generate(num_return_sequences=K)` (batched, but the prompt's keys are copied K times), and the engine's one prefill,
which gives the greedy description in the bargain. They take turns, after a warm-up that is not counted; the medians are
compared. No end token is ever drawn, so every sample has all its tokens.

The share of the bound is that of a plain forward over the same distinct tokens, each once, and one tower pass
(`benchmarks/speed/answers.py`), which takes its turns with the others.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.answering import ask_one, ask_ordinarily, benchmark_model
from benchmarks.measuring import command_line, seconds_in_turns
from benchmarks.speed.answers import answers_bound
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.families.loading import VLM
from mmpo.models.generation.answer import AnswerEngine
from tests.tiny import tiny_image

PROMPT = "Describe this image in detail."


def measure(vlm: VLM, k: int, tokens: int, images: int, rounds: int) -> dict[str, Any]:
    engine = AnswerEngine(vlm, token_budget=1 << 20)
    vlm.base.generation_config.eos_token_id = [len(vlm.tokenizer) - 1]
    options = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0, "max_new_tokens": tokens}

    def shared(image: Image.Image) -> list[Sequence[int]]:
        (answers,) = engine.sample_many([(image, PROMPT)], k, top_p=0.9, max_new_tokens=tokens, greedy_first=True)
        return [answer.token_ids for answer in answers[1:]]

    ways: dict[str, Callable[[Image.Image], Sequence[Sequence[int]]]] = {
        "separate": lambda image: [ask_one(vlm, image, PROMPT, **options) for _ in range(k)],
        "batched": lambda image: ask_ordinarily(vlm, image, PROMPT, **options, num_return_sequences=k),
        "shared": shared,
    }
    warm = tiny_image(99, (448, 336))
    for way in ways.values():
        way(warm)
    (answers,) = engine.sample_many([(warm, PROMPT)], k, top_p=0.9, max_new_tokens=tokens, greedy_first=True)
    least = answers_bound(vlm, warm, [PROMPT] * len(answers), [answer.token_ids for answer in answers])
    least()
    made: dict[str, int] = dict.fromkeys(ways, 0)
    numbers = itertools.count()

    def sampled(name: str) -> None:
        for _ in range(images):
            made[name] += sum(map(len, ways[name](tiny_image(next(numbers), (448, 336)))))

    def bound() -> None:
        for _ in range(images):
            least()

    seconds = seconds_in_turns({**{name: partial(sampled, name) for name in ways}, "bound": bound}, rounds)
    median = {name: statistics.median(times) / images for name, times in seconds.items()}
    return {
        "k": k,
        "new_tokens": tokens,
        "images": images,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "seconds_an_image": median,
        "tokens_made": made,
        "faster_than_separate": median["separate"] / median["shared"],
        "faster_than_batched": median["batched"] / median["shared"],
        "share_of_bound": median["bound"] / median["shared"],
        "unshared_reason": engine.unshared_reason,
    }


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--k", type=int, default=10, help="samples an image")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a sample")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smaller model, one image, one round, 8 tokens")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = (args.k, 8, 1, 1) if args.quick else (args.k, args.tokens, args.images, args.rounds)
    results = measure(benchmark_model(4 if args.quick else 8), *sizes)
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["seconds_an_image"].items())
    print(f"{results['k']} samples of {results['new_tokens']} tokens about an image of 576 tokens: {times}")
    print(
        f"one prefill is {results['faster_than_separate']:.1f}x as fast as separate calls, "
        f"{results['faster_than_batched']:.1f}x as fast as num_return_sequences, "
        f"and {results['share_of_bound']:.2f} of the arithmetic bound"
    )
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    in_one_line(main)
