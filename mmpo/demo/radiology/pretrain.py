"""Train the radiology demo's LLaVA from scratch: the tower learns what covers each patch, then the model to dictate.

    python -m mmpo.demo.radiology.pretrain OUT

About half an hour on one CPU core. Everything follows from the seed; stopped between the stages it goes on there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpo.demo.architecture import IMAGE_TOKENS, PATCH
from mmpo.demo.assemble import build_model, build_processor, train_tokenizer
from mmpo.demo.drawing import SIZE
from mmpo.demo.radiology.chests import KINDS, Chest, sample_chest
from mmpo.demo.radiology.dictation import PROMPT, dictated_report, exact_report, question
from mmpo.demo.see import patch_areas, pixels
from mmpo.demo.training import Report, cosine, export, fit, print_progress, save_tensors, two_rates

VOCABULARY_SIZE = 640
TRAINING = 200
"""Seeds the model's own chests; the world's splits have other numbers."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast."""

    seed: int = 11
    see_steps: int = 320
    see_batch: int = 48
    speak_steps: int = 650
    speak_batch: int = 32
    learning_rate: float = 1e-3
    tower_rate: float = 2.5e-4
    warmup: int = 60
    asked: float = 0.3
    """Share of rows that are a question about the film instead of a report."""


def pretrain(out: Path, plan: Plan) -> Path:
    """Train by `plan` into `out`; the finished model is in the folder that is returned (`out/model`)."""
    out.mkdir(parents=True, exist_ok=True)
    processor = build_processor(build_tokenizer())
    model = build_model(processor, plan.seed)
    tower_file = out / "tower.safetensors"
    if not tower_file.exists():
        see(model.model.vision_tower, plan, print_progress("see", plan.see_steps))
        save_tensors(tower_file, dict(model.model.vision_tower.state_dict()))
    model.model.vision_tower.load_state_dict(load_file(tower_file))
    speak(model, processor.tokenizer, plan, print_progress("speak", plan.speak_steps))
    return export(model, processor, out / "model")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer of this world's reports."""
    texts = [f"USER: {PROMPT} ASSISTANT: Yes. No."] * 50
    for index in range(1500):
        chest, rng = sample_chest((1, TRAINING, index)), np.random.default_rng((1, TRAINING, index))
        texts += [exact_report(chest, rng), dictated_report(chest, rng), " ".join(question(chest, rng))]
    return train_tokenizer(texts, VOCABULARY_SIZE)


def patch_labels(chest: Chest) -> np.ndarray:
    """Which kinds cover a quarter or more of each patch [IMAGE_TOKENS, KINDS], 0 or 1."""
    side = SIZE // PATCH
    labels = np.zeros((side, side, len(KINDS)), dtype=np.float32)
    for finding in chest.findings:
        _, _, width, height = finding.box
        labels[..., KINDS.index(finding.kind)] += patch_areas(finding.box) > 0.25 * min(PATCH**2, width * height)
    return np.minimum(labels, 1).reshape(-1, len(KINDS))


def see(tower: CLIPVisionModel, plan: Plan, report: Report) -> None:
    """Train the tower in place to name what covers each patch."""
    torch.manual_seed(plan.seed)
    head = nn.Sequential(nn.LayerNorm(tower.config.hidden_size), nn.Linear(tower.config.hidden_size, len(KINDS)))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.see_steps)
    weight = torch.full((len(KINDS),), 3.0)

    def loss_of(step: int) -> Tensor:
        chests = [sample_chest((plan.seed, TRAINING, 1, step * plan.see_batch + i)) for i in range(plan.see_batch)]
        labels = torch.from_numpy(np.stack([patch_labels(chest) for chest in chests]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(tower(pixels(chests)).last_hidden_state[:, 1:])
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weight)

    fit(loss_of, parameters, optimizer, schedule, range(plan.see_steps), report)


def speak(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, plan: Plan, report: Report) -> None:
    """Train the whole model in place on dictated reports and questions."""
    optimizer = two_rates(model, plan.learning_rate, plan.tower_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, plan.speak_steps, plan.warmup))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def loss_of(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = model(**batch(tokenizer, plan, step)).loss
        return loss

    model.train()
    fit(loss_of, parameters, optimizer, schedule, range(plan.speak_steps), report)


def batch(tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int) -> dict[str, Tensor]:
    """Batch number `step`: input_ids, labels and attention_mask [rows, tokens], pixel_values of each row's film."""
    chests, rows = [], []
    image = tokenizer.convert_tokens_to_ids("<image>")
    for i in range(plan.speak_batch):
        seed = (plan.seed, TRAINING, 2, step * plan.speak_batch + i)
        chest, rng = sample_chest(seed), np.random.default_rng((*seed, 3))
        asked, answer = question(chest, rng) if rng.random() < plan.asked else (PROMPT, dictated_report(chest, rng))
        before = [tokenizer.bos_token_id, *_ids(tokenizer, "USER: "), *[image] * IMAGE_TOKENS]
        before += _ids(tokenizer, f"\n{asked} ASSISTANT:")
        rows.append((before, [*_ids(tokenizer, f" {answer}"), tokenizer.eos_token_id]))
        chests.append(chest)
    length = max(len(before) + len(after) for before, after in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for row, (before, after) in enumerate(rows):
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        labels[row, len(before) : len(before) + len(after)] = torch.tensor(after)
    mask = torch.zeros_like(ids)
    for row, (before, after) in enumerate(rows):
        mask[row, : len(before) + len(after)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels(chests)}


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def main() -> None:
    """`python -m mmpo.demo.radiology.pretrain OUT [--see-steps N] [--speak-steps N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--see-steps", type=int, default=Plan.see_steps, help="steps of the tower's stage")
    parser.add_argument("--speak-steps", type=int, default=Plan.speak_steps, help="steps of the whole model's stage")
    arguments = parser.parse_args()
    print("done:", pretrain(arguments.out, Plan(see_steps=arguments.see_steps, speak_steps=arguments.speak_steps)))


if __name__ == "__main__":
    main()
