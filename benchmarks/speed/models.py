"""Random-weights models of four families, scaled to the machine.

On the two-core sizes the tower has about the share of the language model's parameters that it has in the published
models (LLaVA-1.5 5 %, Qwen2.5-VL-7B 10 %, SmolVLM2-2.2B 25 %), and so has the head (about 10 %), but for the layouts
that ask for the whole vocabulary. `1b` and `7b` are real sizes with the families' real towers, for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    SmolVLMConfig,
    SmolVLMProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from mmpo.models.families.loading import VLM
from mmpo.models.families.records import family_of
from tests.tiny import CHAT_TEMPLATE, add_lora, llava_processor, tiny_tokenizer
from tests.tiny_parts import NoVideos, assembled, token


@dataclass(frozen=True)
class Size:
    """Language model and towers. `clip`, `qwen` and `siglip` are (hidden, intermediate, layers, heads)."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    clip: tuple[int, int, int, int]
    qwen: tuple[int, int, int, int]
    siglip: tuple[int, int, int, int]
    image: int = 336  # side of a CLIP input, pixels
    tile: int = 378  # side of a SmolVLM tile


_REAL: dict[str, Any] = {
    "clip": (1024, 4096, 24, 16), "qwen": (1280, 3420, 32, 16), "siglip": (1152, 4304, 27, 16)
}  # fmt: skip
_SMALL: dict[str, Any] = {"clip": (96, 384, 3, 3), "qwen": (96, 256, 4, 3), "siglip": (144, 576, 6, 3)}

SIZES: dict[str, Size] = {
    "quick": Size(64, 176, 3, 2, 2_000, (48, 96, 3, 2), (48, 96, 2, 3), (48, 96, 2, 2), image=112, tile=84),
    "cpu": Size(256, 704, 6, 4, 2_000, **_SMALL),
    "cpu-wide": Size(384, 1024, 8, 6, 32_000, **(_SMALL | {"clip": (192, 768, 4, 3)})),
    "1b": Size(2048, 5632, 20, 16, 32_000, **_REAL),
    "7b": Size(4096, 11008, 32, 32, 32_000, **_REAL),
}


def build(family: str, size: Size, *, device: str, dtype: torch.dtype) -> VLM:
    """The same random model on every call, with a LoRA adapter (rank 8, every linear layer of the language model) that
    already differs from the base a little."""
    config, processor = BUILDERS[family](size)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    vlm = VLM(model, processor, family_of(config), f"random {family}")
    return add_lora(vlm, r=8, spread=0.01)


def sized(name: str, vocabulary: int | None) -> Size:
    return SIZES[name] if vocabulary is None else replace(SIZES[name], vocabulary=vocabulary)


def _text(size: Size, processor: Any, **more: Any) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    return {
        "vocab_size": max(size.vocabulary, len(tokenizer)),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 32_768,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def _clip(size: Size) -> CLIPVisionConfig:
    hidden, intermediate, layers, heads = size.clip
    return CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=size.image, patch_size=14, projection_dim=hidden,
    )  # fmt: skip


def _llava(size: Size) -> tuple[Any, Any]:
    processor = llava_processor(size.image, 14)
    config = LlavaConfig(
        vision_config=_clip(size),
        text_config=LlamaConfig(**_text(size, processor)),
        image_token_id=token(processor, "<image>"),
        image_seq_length=(size.image // 14) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return config, processor


def _llava_next(size: Size) -> tuple[Any, Any]:
    side = size.image
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=_clip(size),
        text_config=LlamaConfig(**_text(size, processor)),
        image_token_id=token(processor, "<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return config, processor


def _qwen(size: Size) -> tuple[Any, Any]:
    marks = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }  # fmt: skip
    tokenizer = tiny_tokenizer(**marks)
    processor = assembled(
        Qwen2_5_VLProcessor,
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=14, merge_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
        ),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    hidden, intermediate, layers, heads = size.qwen
    section = size.hidden // size.heads // 2
    third = 3 * section // 8
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [section - 2 * third, third, third]}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": layers, "hidden_size": hidden, "intermediate_size": intermediate, "num_heads": heads,
            "out_hidden_size": size.hidden, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "window_size": 112, "fullatt_block_indexes": list(range(layers // 4, layers, max(1, layers // 4))),
        },
        text_config=_text(size, processor, rope_parameters=rope),
        image_token_id=token(processor, "<|image_pad|>"),
        video_token_id=token(processor, "<|video_pad|>"),
        vision_start_token_id=token(processor, "<|vision_start|>"),
        vision_end_token_id=token(processor, "<|vision_end|>"),
        tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


def _smolvlm(size: Size) -> tuple[Any, Any]:
    """SmolVLM2's tiles: 27 x 27 patches (at real sizes), nine of which become one token."""
    marks = {f"row_{r}_{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)}
    tokenizer = tiny_tokenizer(
        vocab_size=420, fake_image_token="<fake_token_around_image>", global_image_token="<global-img>", **marks
    )
    tokens = (size.tile // 14 // 3) ** 2
    processor = assembled(
        SmolVLMProcessor,
        image_processor=SmolVLMImageProcessorPil(
            size={"longest_edge": 4 * size.tile}, max_image_size={"longest_edge": size.tile}
        ),
        tokenizer=tokenizer,
        image_seq_len=tokens,
        chat_template=CHAT_TEMPLATE,
        video_processor=NoVideos(),
    )
    hidden, intermediate, layers, heads = size.siglip
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "image_size": size.tile, "patch_size": 14,
        },
        text_config=LlamaConfig(**_text(size, processor)),
        image_token_id=token(processor, "<image>"),
        scale_factor=3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


BUILDERS: dict[str, Callable[[Size], tuple[Any, Any]]] = {
    "llava": _llava, "llava_next": _llava_next, "qwen2_5_vl": _qwen, "smolvlm": _smolvlm
}  # fmt: skip
