"""Train the radiology demo's LLaVA from scratch: the tower learns what covers each patch, then the model to dictate.

    python -m mmpo.demo.radiology.pretrain OUT

About ten minutes on two CPU cores. Everything follows from the seed; stopped between the stages it goes on there.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmpo.demo.architecture import IMAGE_TOKENS, PATCH
from mmpo.demo.assemble import CHAT_TEMPLATE, build_model, train_tokenizer
from mmpo.demo.radiology.chests import KINDS, SIZE, Chest, sample_chest
from mmpo.demo.radiology.dictation import PROMPT, dictated_report, exact_report, question
from mmpo.demo.see import PIXEL_MEAN, PIXEL_STD

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
    processor = build_processor()
    model = build_model(processor, plan.seed)
    tower_file = out / "tower.safetensors"
    if not tower_file.exists():
        see(model.model.vision_tower, plan, print_progress("see", plan.see_steps))
        state = {k: v.detach().contiguous().clone() for k, v in model.model.vision_tower.state_dict().items()}
        save_file(state, tower_file)
    model.model.vision_tower.load_state_dict(load_file(tower_file))
    speak(model, processor.tokenizer, plan, print_progress("speak", plan.speak_steps))
    folder = out / "model"
    model.eval().to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_processor() -> LlavaProcessor:
    """Processor and byte-level BPE tokenizer of this world's reports."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ),
        tokenizer=_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    texts = [f"USER: {PROMPT} ASSISTANT: Yes. No."] * 50
    for index in range(1500):
        chest, rng = sample_chest((1, TRAINING, index)), np.random.default_rng((1, TRAINING, index))
        texts += [exact_report(chest, rng), dictated_report(chest, rng), " ".join(question(chest, rng))]
    return train_tokenizer(texts, VOCABULARY_SIZE)


def pixels(chests: Sequence[Chest]) -> Tensor:
    """Normalised films [chests, 3, SIZE, SIZE]."""
    array = np.stack([np.asarray(chest.draw(), dtype=np.uint8) for chest in chests])
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def patch_labels(chest: Chest) -> np.ndarray:
    """Which kinds cover a quarter or more of each patch [IMAGE_TOKENS, KINDS], 0 or 1."""
    side = SIZE // PATCH
    start = np.arange(side) * PATCH
    labels = np.zeros((side, side, len(KINDS)), dtype=np.float32)
    for finding in chest.findings:
        x, y, width, height = finding.box
        across = np.clip(np.minimum(start + PATCH, x + width) - np.maximum(start, x), 0, None)
        down = np.clip(np.minimum(start + PATCH, y + height) - np.maximum(start, y), 0, None)
        labels[..., KINDS.index(finding.kind)] += down[:, None] * across[None] > 0.25 * min(PATCH**2, width * height)
    return np.minimum(labels, 1).reshape(-1, len(KINDS))


Report = Callable[[int, float, float], None]


def see(tower: CLIPVisionModel, plan: Plan, report: Report) -> float:
    """Train the tower in place to name what covers each patch; returns the last loss."""
    torch.manual_seed(plan.seed)
    head = nn.Sequential(nn.LayerNorm(tower.config.hidden_size), nn.Linear(tower.config.hidden_size, len(KINDS)))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.see_steps)
    weight = torch.full((len(KINDS),), 3.0)
    began, loss = time.monotonic(), torch.zeros(())
    for step in range(plan.see_steps):
        chests = [sample_chest((plan.seed, TRAINING, 1, step * plan.see_batch + i)) for i in range(plan.see_batch)]
        labels = torch.from_numpy(np.stack([patch_labels(chest) for chest in chests]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(tower(pixels(chests)).last_hidden_state[:, 1:])
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weight)
        _step(loss, parameters, optimizer, schedule)
        report(step + 1, loss.item(), time.monotonic() - began)
    return loss.item()


def speak(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, plan: Plan, report: Report
) -> float:
    """Train the whole model in place on dictated reports and questions; returns the last loss."""
    tower = list(model.model.vision_tower.parameters())
    rest = [p for n, p in model.named_parameters() if "vision_tower" not in n]
    groups = [{"params": rest, "lr": plan.learning_rate}, {"params": tower, "lr": plan.tower_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, plan))
    began, loss = time.monotonic(), torch.zeros(())
    model.train()
    for step in range(plan.speak_steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch(tokenizer, plan, step)).loss
        _step(loss, [*rest, *tower], optimizer, schedule)
        report(step + 1, loss.item(), time.monotonic() - began)
    return loss.item()


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


def _step(
    loss: Tensor,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def _cosine(step: int, plan: Plan) -> float:
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.speak_steps - plan.warmup)
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def print_progress(stage: str, total: int) -> Report:
    """Prints every 25th step with the loss and the time that is left."""

    def report(step: int, loss: float, seconds: float) -> None:
        if step % 25 == 0 or step == total:
            left = seconds / step * (total - step) / 60
            print(f"{stage} {step}/{total}: loss {loss:.3f} ({seconds:.0f} s, {left:.0f} min left)", flush=True)

    return report


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
