"""How often would the host wait for a GPU? Counted without one.

    python benchmarks/device_waits.py [--json OUT]

Tiny models of random weights run on the pretended device of `tests/pretended_device.py`, which computes on the CPU and
counts what makes the host wait for a real one. A batch of answers, of samples and of watched answers is run with two
numbers of new tokens: the difference is what each step costs. A micro-batch is a forward and backward pass of three
pairs. What transformers' own forward waits for is counted with the rest. The second table times one step's sampling
noise for 64 rows of 32,000 words in CPU time: from a generator a row, and hashed as on a device.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import command_line
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.generation import choosing
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.probe import ProbeSpec
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives.build import build_objective
from tests.models.pairs import pair_batch
from tests.pretended_device import DEVICE, PretendedDevice
from tests.tiny import add_lora, tiny_image, tiny_llava

QUESTIONS = ["Is there a dog?", "What colour is the ball?", "Describe the image."]
FEW, MANY = 4, 12


def generating(kind: str, new_tokens: int) -> int:
    """Waits of one batch: two images, three questions each."""
    vlm = tiny_llava()
    vlm.base.generation_config.eos_token_id = [len(vlm.tokenizer) + 1]  # no answer ends early: every step has all rows
    engine = AnswerEngine(vlm, max_new_tokens=new_tokens, sharing="on")
    images = [tiny_image(0), tiny_image(1)]
    prompts = [(image, text) for image in images for text in QUESTIONS]
    work: dict[str, Callable[[], Any]] = {
        "answers": lambda: list(engine.answer([(image, QUESTIONS) for image in images])),
        "samples, top-p 0.9": lambda: list(engine.sample_many(prompts, 2, top_p=0.9, greedy_first=True)),
        "answers with attention": lambda: list(engine.watched(prompts, ProbeSpec(layers=(0, 1)))),
    }
    with PretendedDevice() as device:
        device.take(vlm.model)
        work[kind]()
        return device.total


def micro_batch() -> int:
    """Waits of a forward and backward pass."""
    vlm = add_lora(tiny_llava(), spread=0.1)
    scorer, objective, batch = PairScorer(vlm, sharing="on"), build_objective("dpo"), pair_batch(vlm)
    with PretendedDevice() as device:
        device.take(vlm.model)
        objective.loss(scorer(batch.to(DEVICE))).backward()
        return device.total


def counted() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind in ("answers", "samples, top-p 0.9", "answers with attention"):
        few, many = generating(kind, FEW), generating(kind, MANY)
        step = (many - few) / (MANY - FEW)
        rows.append({"work": kind, "a_step": step, "a_batch_besides": few - FEW * step})
    return [*rows, {"work": "micro-batch of DPO", "a_step": micro_batch(), "a_batch_besides": 0}]


def noise(rows: int = 64, words: int = 32_000, rounds: int = 5) -> dict[str, float]:
    """Milliseconds of CPU time of one step's noise."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    ways: dict[str, Callable[[], Any]] = {
        "a generator a row": lambda: torch.stack([torch.empty(words).exponential_(generator=g) for g in generators])
    }
    if hasattr(choosing, "hashed_exponentials"):
        ways["hashed"] = lambda: choosing.hashed_exponentials(torch.arange(rows), 1, words)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    arguments = command_line(__doc__).parse_args()
    waits, milliseconds = counted(), noise()
    print("| work | waits a step (or micro-batch) | a batch besides |\n| --- | ---: | ---: |")
    for row in waits:
        print(f"| {row['work']} | {row['a_step']:g} | {row['a_batch_besides']:g} |")
    print("\n| noise of a step | ms of CPU time |\n| --- | ---: |")
    for name, value in milliseconds.items():
        print(f"| {name} | {value:.0f} |")
    if arguments.json:
        write_json(arguments.json, {"waits": waits, "noise_ms": milliseconds})


if __name__ == "__main__":
    in_one_line(main)
