"""Model families as data: one small record each.

A record answers the questions that shared-prefix scoring has to ask: where positions start, which tokens attend
to which, in which container the vision features travel, and what the family can't do. Adding a family means adding a
record and a line in the tests' table of tiny models; the tests then show if the record is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import transformers
from packaging.version import Version
from transformers import PreTrainedConfig

from mmpo.errors import UserError
from mmpo.models.tree.segments import Blocks
from mmpo.registry import Registry

FeatureContainer = Literal["list", "tensor", "tiles", "own"]


@dataclass(frozen=True)
class Family:
    """One model family.

    `position_base` is the position of a row's first token; `grid_positions` means three coordinates a token, asked of
    the model itself. `blocks` are tokens that see each other both ways (`mmpo.models.tree.segments.AttentionRules`).

    `features` says how `get_image_features(...).pooler_output` holds images: a "list" of `[tokens, h]`, a "tensor"
    `[images, tokens, h]`, or a tensor of "tiles" of which an image has several; "own" leaves vision to the model.
    `pixel_keys` are the processor outputs that describe images, the tower's arguments; `ignored_keys` are outputs that
    no model of the family reads. `fixed_image_size` means that every image takes the same number of tokens.
    `count_key` names the tower's argument that says how many images each prompt shows, in families that prepare an
    image differently with others than alone. `video_keys` and `video_features` are the same for videos; a family
    without `video_keys` gets frames as images. `softcap` means that the head's logits go through the text
    configuration's `final_logit_softcapping`. `template` is the chat template for checkpoints that ship none.
    `since` is the first version of transformers whose code of the family mmpo agrees with, where that is not the floor.
    `sharing` is False for a family that must run one row per response; `unsupported_reason` then says why.
    """

    name: str
    model_type: str
    position_base: int = 0
    grid_positions: bool = False
    blocks: Blocks = "none"
    features: FeatureContainer = "list"
    pixel_keys: tuple[str, ...] = ("pixel_values",)
    ignored_keys: tuple[str, ...] = ()
    fixed_image_size: bool = True
    count_key: str | None = None
    video_keys: tuple[str, ...] = ()
    video_features: FeatureContainer = "tensor"
    softcap: bool = False
    template: str | None = None
    since: str = ""
    sharing: bool = True
    unsupported_reason: str = ""


_SIZED = ("pixel_values", "image_sizes")
_CLIP = ("pixel_values_videos",)
_MASKED = ("pixel_values", "pixel_attention_mask")

# The order of PaliGemma's own processor: images, begin-of-sequence, the task, a line end; then the answer.
_PALIGEMMA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}{{ bos_token }}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '\\n' }}"
    "{% endif %}{% endfor %}"
)


def _qwen(name: str, model_type: str, *more: str) -> Family:
    return Family(
        name,
        model_type,
        grid_positions=True,
        pixel_keys=("pixel_values", "image_grid_thw"),
        fixed_image_size=False,
        video_keys=("pixel_values_videos", "video_grid_thw", *more),
        video_features="list",
    )


_OWN = {
    family.model_type: family
    for family in (
        Family("LLaVA", "llava"),
        Family("LLaVA-NeXT", "llava_next", pixel_keys=_SIZED, fixed_image_size=False),
        # Where a prompt shows several images, each is one view of the whole, without tiles.
        Family(
            "LLaVA-OneVision",
            "llava_onevision",
            pixel_keys=_SIZED,
            fixed_image_size=False,
            count_key="batch_num_images",
            video_keys=_CLIP,
        ),
        Family(
            "LLaVA-NeXT-Video",
            "llava_next_video",
            pixel_keys=_SIZED,
            fixed_image_size=False,
            video_keys=_CLIP,
            since="5.23",
        ),
        Family("Video-LLaVA", "video_llava", features="tensor", video_keys=_CLIP, since="5.23"),
        _qwen("Qwen2-VL", "qwen2_vl"),
        _qwen("Qwen2.5-VL", "qwen2_5_vl", "second_per_grid_ts"),
        _qwen("Qwen3-VL", "qwen3_vl"),
        Family("InternVL", "internvl", features="tiles", fixed_image_size=False),
        Family("Idefics3", "idefics3", pixel_keys=_MASKED, fixed_image_size=False, since="5.23"),
        Family("SmolVLM", "smolvlm", pixel_keys=_MASKED, fixed_image_size=False, since="5.23"),
        Family("Mistral 3", "mistral3", pixel_keys=_SIZED, fixed_image_size=False),
        Family("Gemma 3", "gemma3", blocks="images", features="tensor", ignored_keys=("num_crops",)),
        Family(
            "PaliGemma",
            "paligemma",
            position_base=1,
            blocks="prompt",
            features="tensor",
            ignored_keys=("labels",),
            softcap=True,
            since="5.23",  # before, its code left Gemma 2's cap out
            template=_PALIGEMMA_TEMPLATE,
        ),
    )
}

# LLaVA's code around Pixtral's tower: images keep their shape.
PIXTRAL = Family("Pixtral", "llava", pixel_keys=_SIZED, fixed_image_size=False)

# Families whose images or responses are not simply tokens of one causal row.
REFUSED: dict[str, str] = {
    "mllama": "its images are not in the token row: cross-attention layers read them beside it",
    "idefics": "its images are not in the token row: cross-attention layers read them beside it",
    "phi4_multimodal": "it switches adapters of its own by the kind of input in the batch, and can't carry another",
}


def _check_new(model_type: str, family: Family) -> None:
    if not isinstance(family, Family) or family.model_type != model_type:
        raise UserError(f"{model_type}: no record of this model type", hint="FAMILIES.add(record.model_type, record)")
    if model_type in REFUSED:
        raise UserError(f"{model_type} can't have a record: {REFUSED[model_type]}")


FAMILIES: Registry[Family] = Registry("model families", _OWN, check=_check_new)
"""Model type -> record. A plug-in adds its own with `FAMILIES.add(record.model_type, record)`."""

# Layer types whose state is a running summary of everything before it: two branches of a tree can't share it.
_SEQUENTIAL_LAYERS = ("linear_attention", "mamba", "conv", "recurrent", "rwkv", "hybrid")


def too_old(family: Family) -> bool:
    """True if the installed transformers is older than the family's record requires."""
    return bool(family.since) and Version(transformers.__version__) < Version(family.since)


def family_of(config: PreTrainedConfig | Any) -> Family:
    """The record for a model's configuration. A vision-language model without a record gets one that shares nothing
    and leaves everything to the model's own code. Raises `UserError` for a model that mmpo must refuse."""
    model_type = config.model_type
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layer_types = set(getattr(text_config, "layer_types", None) or ())
    if unsafe := sorted(kind for kind in layer_types if kind.startswith(_SEQUENTIAL_LAYERS)):
        raise UserError(
            f"{model_type}: layers of type {', '.join(unsafe)} carry one running state through the whole row, "
            "so two responses would leak into each other",
            hint="use a model with ordinary attention layers",
        )
    supported = f"supported: {', '.join(sorted(FAMILIES))}"
    if model_type in REFUSED:
        raise UserError(f"{model_type} can't be used: {REFUSED[model_type]}", hint=supported)
    if model_type in FAMILIES:
        vision_type = getattr(getattr(config, "vision_config", None), "model_type", None)
        family = PIXTRAL if (model_type, vision_type) == ("llava", "pixtral") else FAMILIES[model_type]
        if too_old(family):
            raise UserError(
                f"{family.name} needs transformers {family.since} or later (this is {transformers.__version__})",
                hint="pip install --upgrade transformers",
            )
        return family
    if getattr(config, "vision_config", None) is None or getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model type {model_type!r} is not supported", hint=supported)
    return Family(
        name=model_type,
        model_type=model_type,
        features="own",
        pixel_keys=(),
        fixed_image_size=False,
        sharing=False,
        unsupported_reason="mmpo has no record of this family",
    )
