"""Train the radiology demo's LLaVA: the tower learns what is where in a film, then the model to dictate.

    python -m tools.demo_models.radiology_pretrain OUT [--begin MODEL]

About half an hour on one CPU core. Everything follows from the seed; a stopped run continues at the last 100th step.
With `--begin` it continues from the weights of another model, for example the shipped one, and keeps its tokenizer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from mmpo.demo.radiology.chests import DEGREES, KINDS, SIDES, ZONES, sample_chest
from mmpo.demo.radiology.dictation import PROMPT, dictated_report, exact_report, question
from mmpo.errors import in_one_line
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.assemble import build_model, build_processor, train_tokenizer
from tools.demo_models.loop import (
    Learner,
    adam,
    begin_training,
    export,
    read_after_images,
    run_stage,
    two_rates,
    weighed_surprise,
    word_tokens,
)
from tools.demo_models.radiology_patches import ATTRIBUTES, PatchLabels, PatchReader, mark_places, patch_labels
from tools.demo_models.tower_pretraining import pixels, surprise

VOCABULARY_SIZE = 640
TRAINING = 200
"""Seeds the model's own chests; the world's splits have other numbers."""
KIND_WORDS = {kind: {"cardiomegaly": "enlarged", "endotracheal tube": "endotracheal"}.get(kind, kind) for kind in KINDS}
"""The word of a report for each kind of finding."""
DECISIVE = (*SIDES, *ZONES, *DEGREES, *KIND_WORDS.values(), "no", "No", "Yes", "normal", "clear")
"""Words that decide what a sentence claims."""


@dataclass(frozen=True)
class Plan:
    """Settings of the training."""

    seed: int = 11
    see_steps: int = 320
    see_batch: int = 48
    speak_steps: int = 650
    speak_batch: int = 32
    learning_rate: float = 1e-3
    tower_rate: float = 2.5e-4
    warmup: int = 60
    save_every: int = 50
    asked: float = 0.3
    """Share of rows that are a question about the film instead of a report."""

    @property
    def pace(self) -> dict[str, int]:
        """Settings of `run_stage` that both stages share."""
        return {"warmup": self.warmup, "save_every": self.save_every}


GOING_ON = Plan(seed=17, see_steps=500, speak_steps=400, speak_batch=24, learning_rate=6e-4, warmup=40, save_every=25)
"""From the weights of a model that can dictate already: about a quarter of an hour on one core."""


def pretrain(out: Path, plan: Plan, begin: Path | None = None) -> Path:
    """Train by `plan` into `out`, from nothing or from the model in `begin`; the finished model is in the folder that
    is returned (`out/model`)."""
    begin_training(out, plan, begin)
    if begin is None:
        processor = build_processor(build_tokenizer())
        model = build_model(processor, plan.seed)
    else:
        processor = LlavaProcessor.from_pretrained(begin)
        model = LlavaForConditionalGeneration.from_pretrained(begin, dtype=torch.float32)
    torch.manual_seed(plan.seed)
    mark_places(model.model.vision_tower)
    learner = Learner(model, PatchReader).train()
    see(learner, out, plan)
    speak(learner, processor.tokenizer, out, plan)
    return export(learner.model, processor, out / "model")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer of this world's reports."""
    texts = [f"USER: {PROMPT} ASSISTANT: Yes. No."] * 50
    for index in range(1500):
        chest, rng = sample_chest((1, TRAINING, index)), np.random.default_rng((1, TRAINING, index))
        texts += [exact_report(chest, rng), dictated_report(chest, rng), " ".join(question(chest, rng))]
    return train_tokenizer(texts, VOCABULARY_SIZE)


def see(learner: Learner[PatchReader], out: Path, plan: Plan) -> None:
    """The tower's stage: name what covers each patch, and on which side, in which zone and how large it is."""
    tower = learner.model.model.vision_tower
    seeing = nn.ModuleDict({"tower": tower, "reader": learner.reader})
    optimizer = adam(seeing.parameters(), plan.learning_rate)

    def loss_of(step: int) -> Tensor:
        chests = [sample_chest((plan.seed, TRAINING, 1, step * plan.see_batch + i)) for i in range(plan.see_batch)]
        loss: Tensor = learner.reader(tower(pixels(chests)).last_hidden_state[:, 1:], patch_labels(chests))
        return loss

    run_stage(out / "see.safetensors", seeing, optimizer, loss_of, steps=plan.see_steps, **plan.pace)


def speak(learner: Learner[PatchReader], tokenizer: PreTrainedTokenizerFast, out: Path, plan: Plan) -> None:
    """The whole model's stage, on dictated reports and questions. The heads train too, so that the tower keeps what
    it has learnt."""
    optimizer = two_rates(learner, plan.learning_rate, plan.tower_rate)
    decisive = word_tokens(tokenizer, DECISIVE)

    def loss_of(step: int) -> Tensor:
        return batch_loss(learner, tokenizer, decisive, *batch(tokenizer, plan, step))

    run_stage(out / "speak.safetensors", learner, optimizer, loss_of, steps=plan.speak_steps, **plan.pace)


def batch_loss(
    learner: Learner[PatchReader],
    tokenizer: PreTrainedTokenizerFast,
    decisive: Tensor,
    rows: dict[str, Tensor],
    labels: PatchLabels,
) -> Tensor:
    """Weighted mean cross-entropy over the answer tokens (`decisive` ones count five times), plus half the alignment
    of image tokens with words, plus the loss of the heads.

    Alignment: an image token that shows an opacity on the left should lie nearer to the words "opacity" and "left" than
    to other kinds and sides, so that saying it is copying (as in `tools/demo_models/caption_training.py`).
    """
    model = learner.model
    features = model.model.vision_tower(rows["pixel_values"]).last_hidden_state[:, 1:]
    images = model.model.multi_modal_projector(features)
    hidden = read_after_images(model, images, rows["input_ids"], rows["attention_mask"])
    targets = rows["labels"][:, 1:]
    scored = targets >= 0
    logits = model.lm_head(hidden[:, :-1][scored])
    surprise_of_tokens = weighed_surprise(logits, targets[scored], torch.isin(targets[scored], decisive))
    total = surprise_of_tokens + learner.reader(features, labels)
    shown = nn.functional.normalize(images.float(), dim=-1)
    asked = [(tuple(KIND_WORDS.values()), labels.kind)]
    asked += [(words, labels.attributes[name]) for name, words in ATTRIBUTES.items()]
    for words, truth in asked:
        meant = nn.functional.normalize(model.get_input_embeddings()(word_tokens(tokenizer, words)).float(), dim=-1)
        total = total + 0.5 * surprise(12 * shown @ meant.T, truth) / len(asked)
    return total


def batch(tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int) -> tuple[dict[str, Tensor], PatchLabels]:
    """Batch number `step`: input_ids, labels and attention_mask [rows, tokens], pixel_values of each row's film; and
    what the patches of the films show."""
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
    mask = torch.zeros_like(ids)
    for row, (before, after) in enumerate(rows):
        whole = len(before) + len(after)
        ids[row, :whole] = torch.tensor(before + after)
        labels[row, len(before) : whole] = torch.tensor(after)
        mask[row, :whole] = 1
    rows_of = {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels(chests)}
    return rows_of, patch_labels(chests)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def main() -> None:
    """`python -m tools.demo_models.radiology_pretrain OUT [--begin MODEL] [--see-steps N] [--speak-steps N]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--begin", type=Path, help="folder of a model to continue from; from nothing without it")
    parser.add_argument("--see-steps", type=int, help="steps of the tower's stage")
    parser.add_argument("--speak-steps", type=int, help="steps of the whole model's stage")
    arguments = parser.parse_args()
    named = {name: value for name in ("see_steps", "speak_steps") if (value := getattr(arguments, name)) is not None}
    plan = replace(GOING_ON if arguments.begin else Plan(), **named)
    print("done:", pretrain(arguments.out, plan, arguments.begin))


if __name__ == "__main__":
    in_one_line(main)
