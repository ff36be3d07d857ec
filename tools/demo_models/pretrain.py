"""Train the demo LLaVA: the tower learns to see, then the whole model to find what a question names, then to tell
everything about it, carelessly, and last to say nothing twice.

    python -m tools.demo_models.pretrain OUT [--begin MODEL]

Looking comes late to a decoder this small, and earlier if it is asked for one thing at a time: in the stage `find` the
words that weigh most are yes and no, which only matching a word with an image token can decide; in `tell` sides,
numbers and colours weigh as much, which must be copied from the token that was found. With `--begin` all this continues
from the weights of another model instead of `find`: after `see` only the projector is fitted again.

Everything follows from the seed. Progress is saved every few minutes as safetensors; run again after an interruption,
it continues from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmpo.errors import in_one_line
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.assemble import build_model, build_processor
from tools.demo_models.caption_training import (
    Batch,
    Row,
    batch_loss,
    decisive_tokens,
    make_batch,
    name_tokens,
    several_row,
    single_row,
    thing_of_token,
    yes_no_tokens,
)
from tools.demo_models.loop import Learner, adam, begin_training, export, run_stage, two_rates
from tools.demo_models.on_policy_stage import mended_rows
from tools.demo_models.tower_pretraining import PatchReader, patch_labels, pixels, read_patches, training_scene


@dataclass(frozen=True)
class Plan:
    """Settings of the training. `see_*` is the tower's stage, `find_*` and `tell_*` the whole model's, `fit_*` the
    projector's, `mend_*` what learns from descriptions of `mend_scenes` training scenes; every eighth pair of batches
    has several pictures a row.
    """

    seed: int = 7
    see_steps: int = 2000
    see_batch: int = 64
    find_steps: int = 1900
    find_batch: int = 32
    fit_steps: int = 80
    tell_steps: int = 1300
    tell_batch: int = 24
    mend_scenes: int = 1200
    mend_steps: int = 110
    mend_batch: int = 16
    learning_rate: float = 1e-3
    mend_rate: float = 2e-4
    tell_rate: float = 6e-4
    fit_rate: float = 3e-3
    tower_rate: float = 2e-4
    warmup: int = 100
    save_every: int = 100


def pretrain(out: Path, plan: Plan, begin: Path | None = None) -> Path:
    """Train by `plan` into the folder `out`, from nothing or from the weights of the model in `begin`; returns the
    folder of the finished model (`out/model`)."""
    begin_training(out, plan, begin)
    if not (out / "processor").exists():
        (LlavaProcessor.from_pretrained(begin) if begin else build_processor()).save_pretrained(out / "processor")
    processor = LlavaProcessor.from_pretrained(out / "processor")
    model = build_model(processor, plan.seed)
    if begin is not None:
        other = LlavaForConditionalGeneration.from_pretrained(begin, dtype=torch.float32)
        model.load_state_dict(other.state_dict())
    learner = Learner(model, PatchReader).train()
    _see(learner, out, plan)
    if begin is None:
        _speak("find", learner, processor, out, plan)
    else:
        _fit(learner, processor, out, plan)
    _speak("tell", learner, processor, out, plan)
    told = export(learner.model, processor, out / "told")
    return _mend(told, processor, out, plan)


def _see(learner: Learner[PatchReader], out: Path, plan: Plan) -> None:
    """The tower's stage: name what is where, in which colour and how many of it there are."""
    tower = learner.model.model.vision_tower
    seeing = nn.ModuleDict({"tower": tower, "reader": learner.reader})
    optimizer = adam(seeing.parameters(), plan.learning_rate)

    def loss_of(step: int) -> Tensor:
        scenes = [training_scene((plan.seed, 1, step * plan.see_batch + i)) for i in range(plan.see_batch)]
        labels = patch_labels(scenes)
        middle, last = read_patches(tower, pixels(scenes))
        loss: Tensor = learner.reader(middle, last, labels)
        if step % 250 == 249:
            shares = learner.reader.right(last, labels)
            print("right patches:", ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items()), flush=True)
        return loss

    pace = {"steps": plan.see_steps, "warmup": plan.warmup, "save_every": plan.save_every}
    run_stage(out / "see.safetensors", seeing, optimizer, loss_of, **pace)


def _fit(learner: Learner[PatchReader], processor: LlavaProcessor, out: Path, plan: Plan) -> None:
    """The projector alone, so that a decoder which can find already is not disturbed by what it cannot read yet."""
    projector = learner.model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=plan.fit_rate)
    names, decisive = name_tokens(processor.tokenizer), decisive_tokens(processor.tokenizer)

    def loss_of(step: int) -> Tensor:
        batch = _batch(processor, (plan.seed, 5), plan.tell_batch, step)
        return batch_loss(learner.model, batch, names, decisive)

    pace = {"steps": plan.fit_steps, "warmup": 5, "save_every": plan.save_every}
    run_stage(out / "fit.safetensors", projector, optimizer, loss_of, **pace)
    learner.zero_grad(set_to_none=True)


def _speak(
    stage: Literal["find", "tell"], learner: Learner[PatchReader], processor: LlavaProcessor, out: Path, plan: Plan
) -> None:
    """A stage of the whole model. The heads train too, so that the tower keeps what it has learnt."""
    finding = stage == "find"
    names = name_tokens(processor.tokenizer)
    decisive = (yes_no_tokens if finding else decisive_tokens)(processor.tokenizer)
    things = None if finding else thing_of_token(processor.tokenizer)
    size, seed = (plan.find_batch, (plan.seed, 2)) if finding else (plan.tell_batch, (plan.seed, 4))

    def loss_of(step: int) -> Tensor:
        batch = _batch(processor, seed, size, step)
        return batch_loss(learner.model, batch, names, decisive, reader=learner.reader, things=things)

    optimizer = two_rates(learner, plan.learning_rate if finding else plan.tell_rate, plan.tower_rate)
    steps, warmup = (plan.find_steps, plan.warmup) if finding else (plan.tell_steps, plan.warmup // 3)
    pace = {"steps": steps, "warmup": warmup, "save_every": plan.save_every}
    run_stage(out / f"{stage}.safetensors", learner, optimizer, loss_of, **pace)


def _mend(told: Path, processor: LlavaProcessor, out: Path, plan: Plan) -> Path:
    """The language side alone, on what the model in `told` repeats (`on_policy_stage.py`) and on rows as before."""
    model = LlavaForConditionalGeneration.from_pretrained(told, dtype=torch.float32).train()
    rows = mended_rows(told, plan.seed, plan.mend_scenes)
    if not rows:
        return export(model, processor, out / "model")
    model.model.vision_tower.requires_grad_(False)
    tokenizer, half = processor.tokenizer, plan.tell_batch // 2
    names, decisive, things = name_tokens(tokenizer), decisive_tokens(tokenizer), thing_of_token(tokenizer)

    def loss_of(step: int) -> Tensor:
        chosen = np.random.default_rng((plan.seed, 7, step)).integers(len(rows), size=plan.mend_batch)
        begun = make_batch([rows[int(number)] for number in chosen], tokenizer, IMAGE_TOKENS)
        usual = [single_row((plan.seed, 8, step * half + index)) for index in range(half)]
        loss = batch_loss(model, make_batch(usual, tokenizer, IMAGE_TOKENS), names, decisive, things=things)
        return loss + 0.5 * batch_loss(model, begun, names, decisive, things=things)

    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    pace = {"steps": plan.mend_steps, "warmup": plan.warmup // 10, "save_every": plan.save_every}
    run_stage(out / "mend.safetensors", model, adam(learnt, plan.mend_rate), loss_of, **pace)
    return export(model, processor, out / "model")


def _batch(processor: LlavaProcessor, seed: tuple[int, int], size: int, step: int) -> Batch:
    """Batch number `step`. Twice as many rows as needed are drawn, sorted by length and halved, so that little is
    padding.
    """
    pair, half = divmod(step, 2)
    if pair % 8 == 7:
        rows = [several_row((*seed, 3, step * (size // 3) + i)) for i in range(size // 3)]
    else:
        rows = _drawn(seed, size, pair)[half * size : (half + 1) * size]
    return make_batch(rows, processor.tokenizer, IMAGE_TOKENS)


@lru_cache(maxsize=1)
def _drawn(seed: tuple[int, int], size: int, pair: int) -> list[Row]:
    """The rows of two batches, shortest first."""
    rows = [single_row((*seed, pair * 2 * size + i)) for i in range(2 * size)]
    return sorted(rows, key=lambda row: sum(len(turn.question) + len(turn.answer) + 16 for turn in row[2]))


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--begin", type=Path, help="folder of a model to continue from; from nothing without")
    for stage in ("see", "find", "fit", "tell", "mend"):
        name = f"{stage}_steps"
        parser.add_argument(f"--{stage}-steps", type=int, default=getattr(Plan, name), help=f"steps of `{stage}`")
    steps = vars(parser.parse_args())
    out, begin = steps.pop("out"), steps.pop("begin")
    print("done:", pretrain(out, Plan(**steps), begin))


if __name__ == "__main__":
    in_one_line(main)
