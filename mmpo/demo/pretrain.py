"""Train the demo LLaVA from scratch: first the tower learns to see, then the whole model learns to speak carelessly.

Everything follows from the seed. Progress is saved every few minutes as safetensors; run again after an interruption,
it goes on from there.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmpo.data.atomic import write_text
from mmpo.demo.architecture import IMAGE_TOKENS
from mmpo.demo.assemble import build_model, build_processor
from mmpo.demo.see import PatchReader, see_loss, training_scene
from mmpo.demo.speak import Batch, Row, batch_loss, decisive_tokens, make_batch, name_tokens, several_row, single_row
from mmpo.demo.stage import run_stage
from mmpo.demo.training import export, two_rates


@dataclass(frozen=True)
class Plan:
    """How long and how fast. `see_*` is the tower's stage, `speak_*` the whole model's; every eighth pair of batches
    has several pictures a row.
    """

    seed: int = 7
    see_steps: int = 2000
    see_batch: int = 64
    speak_steps: int = 1800
    speak_batch: int = 32
    learning_rate: float = 1e-3
    tower_rate: float = 2.5e-4
    warmup: int = 100
    save_every: int = 100

    @property
    def pace(self) -> dict[str, int]:
        """What both stages share of `run_stage`'s settings."""
        return {"warmup": self.warmup, "save_every": self.save_every}


class Learner(nn.Module):
    """The model and the heads on its tower's patches, which are thrown away in the end."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.reader = PatchReader(model.model.vision_tower.config.hidden_size)


def pretrain(out: Path, plan: Plan) -> Path:
    """Train by `plan` into the folder `out` and return the folder of the finished model (`out/model`)."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "plan.json", json.dumps(asdict(plan), indent=2))
    if not (out / "processor").exists():
        build_processor().save_pretrained(out / "processor")
    processor = LlavaProcessor.from_pretrained(out / "processor")
    learner = Learner(build_model(processor, plan.seed)).train()
    _see(learner, out, plan)
    _speak(learner, processor, out, plan)
    return export(learner.model, processor, out / "model")


def _see(learner: Learner, out: Path, plan: Plan) -> None:
    """The tower's stage: name what is where, in which colour and how many of it there are."""
    tower = learner.model.model.vision_tower
    seeing = nn.ModuleDict({"tower": tower, "reader": learner.reader})
    optimizer = torch.optim.AdamW(seeing.parameters(), lr=plan.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    right: deque[dict[str, float]] = deque(maxlen=50)

    def loss_of(step: int) -> Tensor:
        scenes = [training_scene((plan.seed, 1, step * plan.see_batch + i)) for i in range(plan.see_batch)]
        with torch.autocast("cpu", torch.bfloat16):
            loss, shares = see_loss(tower, learner.reader, scenes)
        right.append(shares)
        if step % 250 == 249:
            means = (f"{kind} {np.nanmean([shares[kind] for shares in right]):.1%}" for kind in right[0])
            print("right patches:", ", ".join(means), flush=True)
        return loss

    run_stage(out / "see.safetensors", seeing, optimizer, loss_of, steps=plan.see_steps, **plan.pace)


def _speak(learner: Learner, processor: LlavaProcessor, out: Path, plan: Plan) -> None:
    """The whole model's stage. The heads go on, so that the tower keeps what it has learnt."""
    names, decisive = name_tokens(processor.tokenizer), decisive_tokens(processor.tokenizer)

    def loss_of(step: int) -> Tensor:
        batch = _batch(processor, plan, step)
        with torch.autocast("cpu", torch.bfloat16):
            return batch_loss(learner.model, batch, names, decisive, reader=learner.reader)

    optimizer = two_rates(learner, plan.learning_rate, plan.tower_rate)
    run_stage(out / "speak.safetensors", learner, optimizer, loss_of, steps=plan.speak_steps, **plan.pace)


def _batch(processor: LlavaProcessor, plan: Plan, step: int) -> Batch:
    """Batch number `step`. Twice as many rows as needed are drawn, sorted by length and halved, so that little is
    padding.
    """
    pair, half = divmod(step, 2)
    tokenizer = processor.tokenizer
    if pair % 8 == 7:
        size = plan.speak_batch // 3
        rows = [several_row((plan.seed, 3, step * size + i)) for i in range(size)]
    else:
        rows = _drawn(plan, pair)[half * plan.speak_batch : (half + 1) * plan.speak_batch]
    return make_batch(rows, tokenizer, IMAGE_TOKENS)


@lru_cache(maxsize=1)
def _drawn(plan: Plan, pair: int) -> list[Row]:
    """The rows of two batches, shortest first."""
    rows = [single_row((plan.seed, 2, pair * 2 * plan.speak_batch + i)) for i in range(2 * plan.speak_batch)]
    return sorted(rows, key=lambda row: sum(len(turn.question) + len(turn.answer) + 16 for turn in row[2]))


def main() -> None:
    """`python -m mmpo.demo.pretrain OUT [--steps N]`."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--see-steps", type=int, default=Plan.see_steps, help="steps of the tower's stage")
    parser.add_argument("--speak-steps", type=int, default=Plan.speak_steps, help="steps of the whole model's stage")
    arguments = parser.parse_args()
    print("done:", pretrain(arguments.out, Plan(see_steps=arguments.see_steps, speak_steps=arguments.speak_steps)))


if __name__ == "__main__":
    main()
