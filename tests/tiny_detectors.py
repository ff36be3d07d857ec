"""Small random object detectors, saved with their PIL processors as users have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import processors
from transformers import YolosConfig, YolosForObjectDetection
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

CLASSES = ("cat", "dog", "cup", "chair")


def save_tiny_yolos(folder: Path, seed: int = 0, classes: Sequence[str] = CLASSES) -> Path:
    """A random YOLOS of about 20 thousand parameters for pictures of any size; its scores differ between pictures."""
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=8,
        use_mid_position_embeddings=False,
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def save_tiny_owlvit(folder: Path, seed: int = 0) -> Path:
    """A random OWL-ViT with a text limit of 16 tokens."""
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTProcessor
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"  # a query that begins with padding counts as none
    ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**small, "image_size": 64, "patch_size": 16, "initializer_range": 0.3},
        projection_dim=32,
    )
    torch.manual_seed(seed)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    tokenizer.model_max_length = 16
    processor = OwlViTProcessor(OwlViTImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)
    processor.save_pretrained(folder)
    return folder
