"""Small random LLaVA models, built offline through the real configuration, processor, model and tokenizer classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmpo.models.families.loading import VLM
from mmpo.models.families.records import family_of

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% else %}{% if message['role'] == 'user' %}USER: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

_CORPUS = (
    "USER: ASSISTANT: Describe the image. Is there a dog in the image? Please answer yes or no. Yes, there is a dog. "
    "No, there is no cat in this picture. The image shows a kitchen with a table, two chairs and a red cup on "
    "the left. "
    "What colour is the ball? How many people are on the street? There are three trees behind the small house. "
)


def tiny_tokenizer(
    vocab_size: int = 384, *, end: str = "</s>", image_token: str = "<image>", **more: str
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences. `<s>`, `<pad>`, `end` and `image_token` are special
    tokens; so are `more`, under the names that a family's processor looks for.
    """
    specials = list(dict.fromkeys(["<pad>", "<s>", end, image_token, *more.values()]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=end,
        pad_token="<pad>",
        extra_special_tokens={"image_token": image_token, **more},
        padding_side="left",
    )


def llava_processor(image_size: int = 28, patch_size: int = 7) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


TOWER: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
"""A vision tower of 16 patches."""


def clip(**changed: Any) -> CLIPVisionConfig:
    return CLIPVisionConfig(**(TOWER | {"num_hidden_layers": 3, "projection_dim": 24} | changed))


def text_values(tokenizer: PreTrainedTokenizerFast, **changed: Any) -> dict[str, Any]:
    """The configuration of a decoder of two layers."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,  # ten times the usual: logits that differ enough for mistakes to show
    } | changed


def tiny_llava(
    seed: int = 0,
    *,
    image_size: int = 28,
    patch_size: int = 7,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> VLM:
    """A random LLaVA of about 60 thousand parameters: 16 image tokens, two grouped-query decoder layers, three tower
    layers.

    `text` and `vision` override configuration values, e.g. `text={"hidden_size": 256, "num_hidden_layers": 6}`.
    """
    processor = llava_processor(image_size, patch_size)
    config = LlavaConfig(
        vision_config=clip(**{"image_size": image_size, "patch_size": patch_size} | (vision or {})),
        text_config=LlamaConfig(**text_values(processor.tokenizer, **(text or {}))),
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return VLM(model=model, processor=processor, family=family_of(config), source=f"tiny-llava-{seed}")


def save_tiny_llava(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Save a tiny LLaVA in the standard layout (safetensors, processor, tokenizer), so that `load_vlm(folder)` opens
    it.
    """
    return save_model(tiny_llava(seed, **overrides), folder)


def save_model(vlm: VLM, folder: Path) -> Path:
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tiny_image(seed: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """A deterministic noise image, `size` as (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def user(text: str, n_images: int = 1) -> list[dict[str, Any]]:
    """One user turn: `n_images` images, then `text`."""
    return [{"role": "user", "content": [{"type": "image"}] * n_images + [{"type": "text", "text": text}]}]


def add_lora(vlm: VLM, r: int = 4, seed: int = 1, spread: float = 0.0, **options: Any) -> VLM:
    """A fresh LoRA adapter on the language model; `spread > 0` randomizes it so that policy and reference differ."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=r,
        lora_alpha=2 * r,
        lora_dropout=0.0,
        target_modules=r".*(language_model|text_model)\.layers.*\.(q|k|v|o|gate|up|down)_proj",
        **options,
    )
    model = get_peft_model(vlm.base, config)
    if spread:
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0.0, spread)
    return VLM(model=model, processor=vlm.processor, family=vlm.family, source=vlm.source)
