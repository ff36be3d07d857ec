"""Small random models of the Qwen-VL families."""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mmpo.models.families.loading import VLM
from tests.tiny import text_values, tiny_tokenizer
from tests.tiny_parts import NoVideos, assembled, made, token, turns

QWEN = turns("<|vision_start|><|image_pad|><|vision_end|>", "<|im_start|>", "<|im_end|>")


def qwen_parts(processor_class: Any, text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The processor of a Qwen-VL family and the values of its configuration, without the tower."""
    tokenizer = tiny_tokenizer(
        end="<|im_end|>",
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        turn="<|im_start|>",
    )
    tokenizer.bos_token = None  # these families have none
    processor = assembled(
        processor_class,
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 40 * 40}
        ),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=QWEN,
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    values = {
        "text_config": text_values(tokenizer, rope_parameters=rope, **text),
        "image_token_id": token(processor, "<|image_pad|>"),
        "video_token_id": token(processor, "<|video_pad|>"),
        "vision_start_token_id": token(processor, "<|vision_start|>"),
        "vision_end_token_id": token(processor, "<|vision_end|>"),
        "tie_word_embeddings": False,
    }
    return processor, values


QWEN_TOWER = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}


def qwen2_vl(**text: Any) -> VLM:
    processor, values = qwen_parts(Qwen2VLProcessor, text)
    tower = QWEN_TOWER | {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return made(Qwen2VLConfig(vision_config=tower, **values), processor)


def qwen2_5_vl(**text: Any) -> VLM:
    """One of its two tower layers attends in windows of 2 x 2 merged patches."""
    processor, values = qwen_parts(Qwen2_5_VLProcessor, text)
    tower = QWEN_TOWER | {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return made(Qwen2_5_VLConfig(vision_config=tower, **values), processor)


def qwen3_vl(**text: Any) -> VLM:
    """Features of two tower layers go into two decoder layers."""
    processor, values = qwen_parts(Qwen3VLProcessor, {"head_dim": 8, "num_hidden_layers": 3} | text)
    values["text_config"]["rope_parameters"]["mrope_interleaved"] = True
    tower = QWEN_TOWER | {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return made(Qwen3VLConfig(vision_config=tower, **values), processor)
