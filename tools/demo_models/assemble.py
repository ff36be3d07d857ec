"""Tokenizer, processor and empty model of the demo LLaVA, built offline from the world itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmpo.demo.drawing import SIZE
from mmpo.demo.language import BRIEF, CARELESS, DETAILED, YES_NO, describe, questions
from mmpo.demo.things import COLORS, PLACES, THINGS
from tools.demo_models.architecture import PATCH, build_demo_model, demo_config
from tools.demo_models.tower_pretraining import PIXEL_MEAN, PIXEL_STD, training_scene

VOCABULARY_SIZE = 1024

# Parts are rendered in the order in which they stand, so that several images can be named one by one.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% else %}{% if message['role'] == 'user' %}USER: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _corpus() -> list[str]:
    words = ", ".join((*THINGS, *COLORS, *(place.name for place in PLACES)))
    texts = [f"USER: {words} ASSISTANT: Image1: Image2: Image3: Image4: Image5:", *DETAILED, *BRIEF, YES_NO] * 20
    for index in range(3000):
        scene = training_scene((1, 0, index))
        rng = np.random.default_rng((1, 0, index))
        for turn in (
            describe(scene, rng, CARELESS),
            describe(scene, rng, brief=True),
            *questions(scene, rng, CARELESS),
        ):
            texts.append(f"USER: {turn.question} ASSISTANT: {turn.answer}")
    return texts


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every text encodes, and the world's words are one token each."""
    return train_tokenizer(_corpus(), VOCABULARY_SIZE)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocabulary_size` tokens learnt from `texts`, with the demo models' special
    tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=["<pad>", "<s>", "</s>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast | None = None) -> LlavaProcessor:
    """The demo models' processor, with the scenes' tokenizer or another one of `train_tokenizer`."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ),
        tokenizer=tokenizer or build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model that fits `processor`."""
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    config = demo_config(
        len(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    model = build_demo_model(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


__all__ = ["build_model", "build_processor", "build_tokenizer", "train_tokenizer"]
