"""Small random models of every family, built offline through the real configuration, processor and model classes.

`TINY` maps a name to a function `build(**text) -> VLM`; `text` overrides values of the text configuration. A name is a
model type, or a variant of one ("paligemma2", "mistral3 window", …).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    Mistral3Config,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PixtralVisionConfig,
    Qwen2Config,
    SmolVLMConfig,
    SmolVLMProcessor,
    VideoLlavaConfig,
    VideoLlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from mmpo.models.families.loading import VLM
from mmpo.models.families.records import family_of
from tests.tiny import CHAT_TEMPLATE, TOWER, clip, text_values, tiny_llava, tiny_tokenizer
from tests.tiny_parts import (
    CHATML,
    CLIP_SIZES,
    GEMMA,
    MISTRAL,
    PINPOINTS,
    NoVideos,
    assembled,
    made,
    siglip,
    token,
)
from tests.tiny_qwen import qwen2_5_vl, qwen2_vl, qwen3_vl

try:
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor
except ModuleNotFoundError:  # the module of its sizing function imports torchvision, for a class that isn't used here
    _names = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in _names}):
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor


def llava_next(**text: Any) -> VLM:
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(**CLIP_SIZES, image_grid_pinpoints=PINPOINTS),
        tokenizer=tiny_tokenizer(),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**text_values(processor.tokenizer, **text)),
        image_token_id=token(processor, "<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def llava_next_video(**text: Any) -> VLM:
    processor = assembled(
        LlavaNextVideoProcessor,
        video_processor=NoVideos(),
        image_processor=LlavaNextImageProcessorPil(**CLIP_SIZES, image_grid_pinpoints=PINPOINTS),
        tokenizer=tiny_tokenizer(video_token="<video>"),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**text_values(processor.tokenizer, **text)),
        image_token_index=token(processor, "<image>"),
        video_token_index=token(processor, "<video>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def video_llava(**text: Any) -> VLM:
    processor = assembled(
        VideoLlavaProcessor,
        image_processor=VideoLlavaImageProcessor(**CLIP_SIZES),
        video_processor=NoVideos(),
        tokenizer=tiny_tokenizer(video_token="<video>"),
        patch_size=7,
        chat_template=CHAT_TEMPLATE,
    )
    config = VideoLlavaConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**text_values(processor.tokenizer, **text)),
        image_token_index=token(processor, "<image>"),
        video_token_index=token(processor, "<video>"),
        tie_word_embeddings=False,
    )
    return made(config, processor)


def llava_onevision(**text: Any) -> VLM:
    processor = assembled(
        LlavaOnevisionProcessor,
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=tiny_tokenizer(end="<|im_end|>", video_token="<video>", turn="<|im_start|>"),
        video_processor=NoVideos(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    )
    config = LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=Qwen2Config(**text_values(processor.tokenizer, **text)),
        image_token_index=token(processor, "<image>"),
        video_token_index=token(processor, "<video>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def _idefics(processor_class: Any, image_class: Any, config_class: Any, text: dict[str, Any], **extra: Any) -> VLM:
    tokenizer = tiny_tokenizer(
        end="<end_of_utterance>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        **{f"row_{r}_{c}": f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)},
    )
    processor = assembled(
        processor_class,
        image_processor=image_class(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=CHATML.replace("<|im_start|>", "<s>").replace("<|im_end|>", "<end_of_utterance>"),
        **extra,
    )
    config = config_class(
        vision_config=dict(TOWER),
        text_config=LlamaConfig(**text_values(processor.tokenizer, **text)),
        image_token_id=token(processor, "<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def idefics3(**text: Any) -> VLM:
    return _idefics(Idefics3Processor, Idefics3ImageProcessorPil, Idefics3Config, text)


def smolvlm(**text: Any) -> VLM:
    return _idefics(SmolVLMProcessor, SmolVLMImageProcessorPil, SmolVLMConfig, text, video_processor=NoVideos())


def gemma3(**text: Any) -> VLM:
    """Windows of eight tokens in two of three layers, four tokens an image."""
    tokenizer = tiny_tokenizer(
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        turn="<start_of_turn>",
        turn_end="<end_of_turn>",
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA,
    )
    values = {
        "num_hidden_layers": 3,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text_values(tokenizer, **(values | text))),
        vision_config=siglip(),
        mm_tokens_per_image=4,
        image_token_index=token(processor, "<image_soft_token>"),
        boi_token_index=token(processor, "<start_of_image>"),
        eoi_token_index=token(processor, "<end_of_image>"),
        tie_word_embeddings=False,
    )
    return made(config, processor)


def paligemma(text_config: Any = GemmaConfig, **text: Any) -> VLM:
    processor = PaliGemmaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_seq_length=16),
        tokenizer=tiny_tokenizer(),
    )
    config = PaliGemmaConfig(
        text_config=text_config(**text_values(processor.tokenizer, **({"head_dim": 8} | text))),
        vision_config=siglip(projection_dim=32),
        projection_dim=32,
        hidden_size=32,
        image_token_index=token(processor, "<image>"),
        tie_word_embeddings=False,
    )
    return made(config, processor)


def paligemma2(**text: Any) -> VLM:
    """With windows of eight tokens, soft-capped scores and logits."""
    values = {
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 2.0,
    }
    return paligemma(Gemma2Config, **(values | text))


def internvl(**text: Any) -> VLM:
    tokenizer = tiny_tokenizer(
        end="<|im_end|>",
        image_token="<IMG_CONTEXT>",
        context_image_token="<IMG_CONTEXT>",
        start_image_token="<img>",
        end_image_token="</img>",
        video_token="<video>",
        turn="<|im_start|>",
    )
    processor = assembled(
        InternVLProcessor,
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        image_seq_length=4,
        chat_template=CHATML.replace("<image>", "<IMG_CONTEXT>"),
    )
    config = InternVLConfig(
        vision_config=TOWER | {"image_size": [28, 28], "patch_size": [7, 7]},
        text_config=Qwen2Config(**text_values(tokenizer, **text)),
        image_token_id=token(processor, "<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def _pixtral_processor(merge: int) -> PixtralProcessor:
    tokenizer = tiny_tokenizer(
        image_token="[IMG]", row_end="[IMG_BREAK]", image_end="[IMG_END]", inst="[INST]", inst_end="[/INST]"
    )
    return PixtralProcessor(
        image_processor=PixtralImageProcessorPil(patch_size={"height": 7, "width": 7}, size={"longest_edge": 42}),
        tokenizer=tokenizer,
        patch_size=7,
        spatial_merge_size=merge,
        chat_template=MISTRAL,
    )


def _pixtral_tower() -> PixtralVisionConfig:
    return PixtralVisionConfig(**(TOWER | {"image_size": 56}))


def mistral3(**text: Any) -> VLM:
    processor = _pixtral_processor(2)
    config = Mistral3Config(
        vision_config=_pixtral_tower(),
        text_config=MistralConfig(**text_values(processor.tokenizer, **({"sliding_window": None} | text))),
        image_token_index=token(processor, "[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return made(config, processor)


def pixtral(**text: Any) -> VLM:
    processor = _pixtral_processor(1)
    config = LlavaConfig(
        vision_config=_pixtral_tower(),
        text_config=MistralConfig(**text_values(processor.tokenizer, **({"sliding_window": None} | text))),
        image_token_id=token(processor, "[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return made(config, processor)


TINY: dict[str, Callable[..., VLM]] = {
    "llava": lambda **text: tiny_llava(text=text or None),
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "llava_next_video": llava_next_video,
    "video_llava": video_llava,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "mistral3": mistral3,
    "mistral3-window": lambda **text: mistral3(**({"sliding_window": 8} | text)),
    "pixtral": pixtral,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "paligemma2": paligemma2,
}


def tiny_vip() -> VLM:
    """A real model type that mmpo has no record of: it reads several tower layers at once."""
    like = tiny_llava()
    config = VipLlavaConfig(
        vision_config=like.config.vision_config,
        text_config=like.config.text_config,
        image_token_index=like.image_token_id,
        vision_feature_layers=[-2, -1],  # type: ignore[call-arg]  # its name in every supported transformers
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = VipLlavaForConditionalGeneration(config).eval()
    model.generation_config = like.base.generation_config
    return VLM(model, like.processor, family_of(config), "tiny-vip")


def with_real_videos(vlm: VLM) -> VLM:
    """The same model with its family's own video processor (needs torchvision)."""
    names = {
        "llava_onevision": ("LlavaOnevisionVideoProcessor", {"size": {"height": 28, "width": 28}}),
        "llava_next_video": ("LlavaNextVideoVideoProcessor", CLIP_SIZES),
        "video_llava": ("VideoLlavaVideoProcessor", CLIP_SIZES),
        "qwen2_vl": ("Qwen2VLVideoProcessor", QWEN_SIZES),
        "qwen2_5_vl": ("Qwen2VLVideoProcessor", QWEN_SIZES),
        "qwen3_vl": ("Qwen3VLVideoProcessor", QWEN_SIZES),
    }
    name, sizes = names[vlm.family.model_type]
    vlm.processor.video_processor = getattr(transformers, name)(**sizes)
    return vlm


QWEN_SIZES = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 8 * 8, "longest_edge": 40 * 40 * 4}}
