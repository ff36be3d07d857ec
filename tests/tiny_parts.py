"""Parts of the small models of all families."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    SiglipVisionConfig,
)
from transformers.video_processing_utils import BaseVideoProcessor

from mmpo.models.families.loading import VLM
from mmpo.models.families.records import FAMILIES, family_of, too_old
from tests.tiny import TOWER


class NoVideos(BaseVideoProcessor):
    """Takes the place of a video processor where only images are shown."""

    num_frames, fps = 8, 1


def assembled(processor_class: Any, **parts: Any) -> Any:
    """A processor from its parts. Its check of the video processor's class needs torchvision, which images don't."""
    if "video_processor" not in parts:
        return processor_class(**parts)
    with mock.patch.object(processor_class, "check_argument_for_proper_class", lambda self, name, part: type(part)):
        return processor_class(**parts)


def turns(image: str, begin: str, end: str, assistant: str = "assistant", bos: bool = False) -> str:
    """A chat template: `begin` + role, line end, images and text, `end`."""
    return (
        ("{{ bos_token }}" if bos else "")
        + "{% for message in messages %}"
        + f"{begin}{{{{ '{assistant}' if message['role'] == 'assistant' else message['role'] }}}}\n"
        + f"{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}{{% else %}}"
        + "{{ part['text'] }}{% endif %}{% endfor %}"
        + f"{end}\n{{% endfor %}}{{% if add_generation_prompt %}}{begin}{assistant}\n{{% endif %}}"
    )


CHATML = turns("<image>", "<|im_start|>", "<|im_end|>")


GEMMA = turns("<start_of_image>", "<start_of_turn>", "<end_of_turn>", assistant="model", bos=True)


MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% else %}[INST]{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}[/INST]{% endif %}{% endfor %}"
)


def siglip(**changed: Any) -> SiglipVisionConfig:
    """A tower of 16 patches."""
    return SiglipVisionConfig(**(TOWER | {"vision_use_head": False} | changed))


def made(config: Any, processor: Any, seed: int = 0) -> VLM:
    """The model class that AutoModel finds for `config`, with random weights everywhere."""
    if (family := FAMILIES.get(config.model_type)) and too_old(family):
        pytest.skip(f"{family.name} needs transformers {family.since}")
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if not parameter.abs().sum():  # biases, newlines, gates and projections that start at zero
            parameter.data.normal_(0.0, 0.1)
        elif "vision" in name and parameter.ndim >= 2:  # towers begin so small that two images look alike
            parameter.data.mul_(4.0)
    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")} - {None}
    model.generation_config.eos_token_id = sorted(ends)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return VLM(model, processor, family_of(config), f"tiny-{config.model_type}")


def token(processor: Any, text: str) -> int:
    found = processor.tokenizer.convert_tokens_to_ids(text)
    assert isinstance(found, int) and found != processor.tokenizer.unk_token_id
    return found


CLIP_SIZES = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
