"""Train the video demo's LLaVA: the shipped picture model learns to read a clip's frames and to describe what happens.

    python -m tools.demo_models.video_pretrain OUT

Half an hour on one CPU core. The vision tower, which knows the world's things and where they are, stays as it is;
projector and language model learn. Everything follows from the seed; a stopped run continues at the last 100th step.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from mmpo.demo import model_path as picture_model_path
from mmpo.demo.language import YES_NO, Turn, ask_side, noun_phrase
from mmpo.demo.video.clips import COURSES, KEY_FRAMES, ScriptedClip, sample_clip
from mmpo.demo.video.narration import CARELESS, missing, questions
from mmpo.errors import in_one_line
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.assemble import CHAT_TEMPLATE, build_model
from tools.demo_models.caption_training import Row, batch_loss, decisive_tokens, make_batch, name_tokens
from tools.demo_models.loop import adam, export, run_stage, word_tokens

TRAINING = 300
"""Seeds the model's own clips; the world's splits have other numbers."""

# Every frame is announced by its number, as the picture model learnt it: that is how time gets into the prompt.
FRAMES_TEMPLATE = CHAT_TEMPLATE.replace(
    "<image>\n", "{% set shown.number = shown.number + 1 %}Image{{ shown.number }}: <image>\n"
).replace("{{ bos_token }}", "{{ bos_token }}{% set shown = namespace(number=0) %}", 1)
BEFORE = "".join(f"Image{number}: <image>\n" for number in range(1, KEY_FRAMES + 1))


@dataclass(frozen=True)
class Plan:
    """Settings of the training."""

    seed: int = 13
    steps: int = 550
    batch: int = 16
    learning_rate: float = 8e-4
    warmup: int = 40


def pretrain(out: Path, plan: Plan) -> Path:
    """Train by `plan`; the finished model is in the folder that is returned (`out/model`)."""
    out.mkdir(parents=True, exist_ok=True)
    processor = build_processor()
    model = initial_model(processor, plan.seed).train()
    tokenizer = processor.tokenizer
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adam(parameters, plan.learning_rate)
    names, decisive = name_tokens(tokenizer), torch.cat([decisive_tokens(tokenizer), course_tokens(tokenizer)])

    def loss_of(step: int) -> Tensor:
        rows = [clip_row((plan.seed, TRAINING, step * plan.batch + row)) for row in range(plan.batch)]
        return batch_loss(model, make_batch(rows, tokenizer, IMAGE_TOKENS), names, decisive)

    run_stage(out / "video.safetensors", model, optimizer, loss_of, steps=plan.steps, warmup=plan.warmup)
    return export(model, processor, out / "model", max_shard_size="8MB")


def build_processor() -> LlavaProcessor:
    """The picture model's processor with a chat template for frames, and with a token for each word that is new."""
    processor = LlavaProcessor.from_pretrained(picture_model_path())
    processor.chat_template = FRAMES_TEMPLATE
    words = [AddedToken(word, normalized=False) for word in new_words(processor.tokenizer)]
    processor.tokenizer.add_tokens(words)
    return processor


def new_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The words of questions and answers that are more than one token, each with the space before it."""
    clips = [sample_clip((1, TRAINING, index)) for index in range(300)]
    turns = [turn for clip in clips for turn in questions(clip, np.random.default_rng(clip.seed))]
    words = {word for turn in turns for word in re.findall(r" [A-Za-z]+", f" {turn.question} {turn.answer}")}
    return [word for word in sorted(words) if len(tokenizer.encode(word, add_special_tokens=False)) > 1]


def initial_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The shipped picture model with its vision tower frozen. A new word begins as the mean of the tokens that spelt
    it."""
    model = build_model(processor, seed)
    folder = picture_model_path()
    old = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    speller = LlavaProcessor.from_pretrained(folder).tokenizer
    added = processor.tokenizer.convert_ids_to_tokens(list(range(len(speller), len(processor.tokenizer))))
    spelt = [speller.encode(word, add_special_tokens=False) for word in added]
    state = old.state_dict()
    for name, value in model.state_dict().items():
        if value.shape != state[name].shape:  # the embeddings and the head, a row for each token
            rows = [state[name][pieces].mean(0) for pieces in spelt]
            state[name] = torch.cat([state[name], torch.stack(rows)])
    model.load_state_dict(state)
    model.model.vision_tower.requires_grad_(False)
    return model


def clip_row(seed: tuple[int, ...]) -> Row:
    """A clip's frames, the text before the questions, and careless turns about it. Turns about single frames keep alive
    what the picture model can do, and what events and sides are made of."""
    clip, rng = sample_clip(seed), np.random.default_rng((*seed, 3))
    turns = [*questions(clip, rng, CARELESS), *(_ask_frame(clip, rng) for _ in range(2))]
    return clip.scenes(), BEFORE, [*turns, *(_ask_place(clip, rng) for _ in range(2))]


def _ask_frame(clip: ScriptedClip, rng: np.random.Generator) -> Turn:
    number = int(rng.integers(KEY_FRAMES))
    thing = str(rng.choice(clip.things)) if rng.random() < 0.8 else missing(clip, rng)
    there = thing in clip.scene(number).things
    return Turn(f"In Image{number + 1}, is there {noun_phrase(thing)}? {YES_NO}", "Yes" if there else "No")


def _ask_place(clip: ScriptedClip, rng: np.random.Generator) -> Turn:
    """A question about the place of something that moves, in a frame that shows it: such places make up a course."""
    thing = str(rng.choice([track.thing for track in clip.moving]))
    shown = [
        (number, item) for number, scene in enumerate(clip.scenes()) for item in scene.items if item.thing == thing
    ]
    number, item = shown[int(rng.integers(len(shown)))]
    turn = ask_side(item)
    return Turn(f"In Image{number + 1}, {turn.question[0].lower()}{turn.question[1:]}", turn.answer)


def course_tokens(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The first tokens of the verbs and sides, which decide an answer as yes and no do."""
    return word_tokens(tokenizer, (*COURSES, "left", "right"))


def main() -> None:
    """`python -m tools.demo_models.video_pretrain OUT [--steps N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    arguments = parser.parse_args()
    print("done:", pretrain(arguments.out, Plan(steps=arguments.steps)))


if __name__ == "__main__":
    in_one_line(main)
