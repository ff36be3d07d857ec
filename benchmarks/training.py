"""Training speed and memory beside TRL's DPOTrainer, on the same model, the same pairs and the same machine, in one
run.

    python benchmarks/training.py [--quick] [--json OUT] [--batch 2] [--rounds 7] [--threads N]

The model is a random-weights LLaVA with the token layout of LLaVA-1.5: 576 image tokens, about 70 prompt tokens, 100
+ 100 response tokens, one image a pair, LoRA on the language model, float32. Both sides run their real training step:
collate (image processing included), policy, reference with the adapter off, loss, backward. Steps are interleaved and
medians compared, so that other load on the machine meets both sides alike. Peak memory is the growth of the process's
high-water mark during training steps, each side in a fresh process.

The roofline is the arithmetic that nobody can avoid: one tower pass, a plain forward for the reference and a plain
forward and backward for the policy over the same distinct tokens, ordinary causal attention, head at the scored
positions only."""

# ruff: noqa: E402  (the environment must be set before torch and transformers are imported)
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from mmpo.models.loading import VLM
from mmpo.models.prompts import encode_prompt, encode_response, process_images
from mmpo.models.score import PairBatch, PairScorer
from mmpo.objectives import build_objective
from tests.tiny import add_lora, tiny_image, tiny_llava

SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "text": {
            "vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
            "num_attention_heads": 6, "num_key_value_heads": 6, "initializer_range": 0.02,
        },
        "vision": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3},
        "image_size": 336, "patch_size": 14, "prompt_tokens": 70, "response_tokens": 100,
    },
    "quick": {
        "text": {
            "vocab_size": 2_000, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.02,
        },
        "vision": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2},
        "image_size": 112, "patch_size": 14, "prompt_tokens": 30, "response_tokens": 30,
    },
}  # fmt: skip

Step = Callable[[], float]


# --- the common ground: one model, one set of pairs -----------------------------------------------


def build_model(size: dict[str, Any]) -> VLM:
    """The same random model on every call, with a fresh LoRA adapter that already differs from the base a little."""
    vlm = tiny_llava(
        0, image_size=size["image_size"], patch_size=size["patch_size"], text=size["text"], vision=size["vision"]
    )
    return add_lora(vlm, r=8, spread=0.01)


def build_examples(size: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Pairs in TRL's vision preference format. Every digit is one token of the toy tokenizer."""
    examples = []
    for i in range(n):
        prompt, chosen, rejected = (
            _text(i * 3 + k, length)
            for k, length in enumerate(
                (size["prompt_tokens"] - 12, size["response_tokens"] - 2, size["response_tokens"] - 2)
            )
        )
        examples.append(
            {
                "images": [tiny_image(i, (size["image_size"] + 24, size["image_size"]))],
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return examples


def _text(seed: int, tokens: int) -> str:
    return "".join(map(str, torch.randint(0, 10, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()))


# --- the three contenders -------------------------------------------------------------------------


def trl_step(size: dict[str, Any], examples: list[dict[str, Any]], checkpointing: bool) -> Step:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    vlm = build_model(size)
    adapter = {k: v.clone() for k, v in vlm.model.state_dict().items() if "lora_" in k}
    base = vlm.model.unload()
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(), report_to=[], per_device_train_batch_size=len(examples), max_length=None,
        bf16=False, gradient_checkpointing=checkpointing, use_cpu=True, disable_tqdm=True, beta=0.1,
    )  # fmt: skip
    config = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    )
    trainer = DPOTrainer(
        model=base,
        args=arguments,
        processing_class=vlm.processor,
        train_dataset=Dataset.from_list(examples),
        peft_config=config,
    )
    trainer.model.load_state_dict(adapter, strict=False)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what train() sets before its first step

    def step() -> float:
        batch = trainer.data_collator([dict(example) for example in examples])
        loss = trainer.training_step(trainer.model, batch)
        trainer.model.zero_grad(set_to_none=True)
        return float(loss)

    return step


def mmpo_step(size: dict[str, Any], examples: list[dict[str, Any]], checkpointing: bool) -> Step:
    vlm = build_model(size)
    scorer = PairScorer(vlm, sharing="on")
    objective = build_objective({"dpo": {"beta": 0.1}})
    if checkpointing:
        scorer.gradient_checkpointing_enable()
    scorer.train()

    def step() -> float:
        pairs = scorer(collate(vlm, examples))
        loss = objective.loss(pairs)
        loss.backward()
        metrics = torch.stack([term.mean for term in objective.metrics(pairs).values()]).tolist()
        assert all(value == value for value in metrics)
        vlm.model.zero_grad(set_to_none=True)
        return float(loss)

    return step


def roofline_step(size: dict[str, Any], examples: list[dict[str, Any]], checkpointing: bool) -> Step:
    vlm = build_model(size)
    batch = collate(vlm, examples)
    rows = [torch.cat(parts) for parts in zip(batch.prompt_ids, batch.chosen_ids, batch.rejected_ids, strict=True)]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the roofline needs rows of one length")
    ids = torch.stack(rows)
    keep = len(batch.chosen_ids[0]) + len(batch.rejected_ids[0]) + 1
    if checkpointing:
        vlm.base.gradient_checkpointing_enable({"use_reentrant": False})
    vlm.model.train()

    def loss_of(features: Any) -> torch.Tensor:
        logits = vlm.base(
            input_ids=ids, mm_encoder_outputs={"image": features}, logits_to_keep=keep, use_cache=False
        ).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1 - keep :].flatten())

    def step() -> float:
        with torch.no_grad():
            features = vlm.backbone.get_image_features(**batch.image_inputs, return_dict=True)
            with vlm.adapter_off():
                loss_of(features)
        loss = loss_of(features)
        loss.backward()
        vlm.model.zero_grad(set_to_none=True)
        return float(loss)

    return step


def collate(vlm: VLM, examples: list[dict[str, Any]]) -> PairBatch:
    """Everything that happens once a step: tokenizing and image processing."""
    images: list[Image.Image] = [example["images"][0] for example in examples]
    processed = process_images(vlm, images)
    prompts, chosen, rejected = [], [], []
    for example, placeholder in zip(examples, processed.placeholders, strict=True):
        question = example["prompt"][0]["content"]
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompts.append(torch.tensor(encode_prompt(vlm, messages, [placeholder])))
        chosen.append(torch.tensor(encode_response(vlm, example["chosen"][0]["content"])))
        rejected.append(torch.tensor(encode_response(vlm, example["rejected"][0]["content"])))
    names = [str(i) for i in range(len(examples))]
    return PairBatch(names, prompts, chosen, rejected, processed.tensors, [[i] for i in range(len(examples))])


CONTENDERS: dict[str, Callable[[dict[str, Any], list[dict[str, Any]], bool], Step]] = {
    "trl": trl_step,
    "mmpo": mmpo_step,
    "roofline": roofline_step,
}


# --- measuring ------------------------------------------------------------------------------------


def time_steps(
    size: dict[str, Any], examples: list[dict[str, Any]], checkpointing: bool, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each contender's steps, interleaved. The two trainers must report the same loss."""
    steps = {name: make(size, examples, checkpointing) for name, make in CONTENDERS.items()}
    losses = {name: step() for name, step in steps.items()}  # also the warm-up
    if abs(losses["trl"] - losses["mmpo"]) > 1e-5:
        raise RuntimeError(f"the two sides don't compute the same thing: {losses}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        # Whoever comes after TRL finds cold caches and memory just given back: take turns.
        for name in CONTENDERS if number % 2 == 0 else ("trl", "roofline", "mmpo"):
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(contender: str, arguments: argparse.Namespace, checkpointing: bool) -> float:
    """MiB by which training steps raise a fresh process's high-water mark above the loaded model."""
    command = [
        sys.executable, __file__, "--memory-of", contender,
        "--batch", str(arguments.batch), "--threads", str(arguments.threads),
        *(["--quick"] if arguments.quick else []), *(["--checkpointing"] if checkpointing else []),
    ]  # fmt: skip
    # Without arenas per thread and with large blocks returned at once, the mark follows what is really in use.
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.strip().splitlines()[-1])


def measure_own_memory(contender: str, size: dict[str, Any], batch: int, checkpointing: bool) -> float:
    step = CONTENDERS[contender](size, build_examples(size, batch), checkpointing)
    _reset_high_water_mark()
    before = _resident_mib()
    step()
    step()
    return _high_water_mib() - before


def _reset_high_water_mark() -> None:
    with contextlib.suppress(OSError):  # not Linux: the mark then includes building the model
        Path("/proc/self/clear_refs").write_text("5")


def _status_mib(key: str) -> float | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def _resident_mib() -> float:
    return _status_mib("VmRSS:") or _high_water_mib()


def _high_water_mib() -> float:
    return _status_mib("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the report -----------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    size = SIZES["quick" if arguments.quick else "full"]
    examples = build_examples(size, arguments.batch)
    vlm = build_model(size)
    batch = collate(vlm, examples)
    lengths = [len(batch.prompt_ids[0]), len(batch.chosen_ids[0]), len(batch.rejected_ids[0])]
    tower = sum(p.numel() for p in vlm.backbone.vision_tower.parameters())
    total = sum(p.numel() for p in vlm.base.parameters())
    text, vision = size["text"], size["vision"]
    description = (
        f"random LLaVA, {total / 1e6:.0f}M parameters (language model: hidden {text['hidden_size']}, "
        f"{text['num_hidden_layers']} layers, vocabulary {text['vocab_size']:,}; "
        f"tower: hidden {vision['hidden_size']}, {vision['num_hidden_layers']} layers, {tower / 1e6:.1f}M), "
        f"{arguments.batch} pairs a step, "
        f"prompt {lengths[0]} tokens, responses {lengths[1]} + {lengths[2]}, "
        f"LoRA r=8, float32, {platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s)"
    )
    rows = []
    for checkpointing in (False, True):
        seconds = time_steps(size, examples, checkpointing, arguments.rounds)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        # Ratios round by round: the machine's load may change between rounds, hardly within one.
        against = {
            name: statistics.median(a / b for a, b in zip(seconds[name], seconds["mmpo"], strict=True))
            for name in ("trl", "roofline")
        }
        memory = {name: peak_memory(name, arguments, checkpointing) for name in CONTENDERS}
        rows.append(
            {
                "checkpointing": checkpointing,
                "pairs_per_second": {name: arguments.batch / value for name, value in medians.items()},
                "speedup": against["trl"],
                "share_of_roofline": against["roofline"],
                "peak_mib": memory,
                "memory_ratio": memory["mmpo"] / memory["trl"],
                "seconds": seconds,
            }
        )
    return {"setting": description, "torch": torch.__version__, "rows": rows}


def markdown(result: dict[str, Any]) -> str:
    lines = [
        result["setting"],
        "",
        "| checkpointing | TRL pairs/s | mmpo pairs/s | speed-up | roofline pairs/s | share reached "
        "| TRL peak MiB | mmpo peak MiB | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        speed, memory = row["pairs_per_second"], row["peak_mib"]
        lines.append(
            f"| {'on' if row['checkpointing'] else 'off'} "
            f"| {speed['trl']:.2f} | {speed['mmpo']:.2f} | {row['speedup']:.2f}x "
            f"| {speed['roofline']:.2f} | {row['share_of_roofline']:.2f} | {memory['trl']:.0f} | {memory['mmpo']:.0f} "
            f"| {row['memory_ratio']:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--batch", type=int, default=2, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        size = SIZES["quick" if arguments.quick else "full"]
        print(measure_own_memory(arguments.memory_of, size, arguments.batch, arguments.checkpointing))
        return
    result = run(arguments)
    print(markdown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
