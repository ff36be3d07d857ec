"""What mmpo knows about a model family, as data: one small record each.

A record answers the questions that shared-prefix scoring has to ask: where positions start, which mask the language
model expects, in which container the vision features travel, and what the family can't do. Adding a family means
adding a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedConfig

from mmpo.errors import UserError

FeatureContainer = Literal["list", "tensor"]
MaskRule = Literal["calls", "dense"]


@dataclass(frozen=True)
class Family:
    """One model family.

    `position_base` is the position of a row's first token. `mask` says how a tree's visibility reaches the language
    model: "calls" as the SDPA calls of the tree attention, "dense" as one additive mask (for models with attention of
    their own). `features` says how `get_image_features(...).pooler_output` holds one `[tokens, h]` entry per image: a
    list, or the first axis of a tensor. `pixel_keys` are the processor outputs that describe images, first axis one
    entry an image. `fixed_image_size` means that every image takes the same number of tokens; `max_images` limits a
    conversation. `sharing` is False for a family that must run one row per response; `why_not` then tells why.
    """

    name: str
    model_type: str
    position_base: int = 0
    mask: MaskRule = "calls"
    features: FeatureContainer = "list"
    pixel_keys: tuple[str, ...] = ("pixel_values",)
    fixed_image_size: bool = True
    max_images: int | None = None
    sharing: bool = True
    why_not: str = ""


FAMILIES: dict[str, Family] = {family.model_type: family for family in (Family(name="LLaVA", model_type="llava"),)}

# Layer types whose state is a running summary of everything before it: two branches of a tree can't share it.
_SEQUENTIAL_LAYERS = ("linear_attention", "mamba", "conv", "recurrent")


def family_of(config: PreTrainedConfig | Any) -> Family:
    """The record for a model's configuration. Raises `UserError` for a family that mmpo doesn't know or must refuse."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layer_types = set(getattr(text_config, "layer_types", None) or ())
    if unsafe := sorted(kind for kind in layer_types if kind.startswith(_SEQUENTIAL_LAYERS)):
        raise UserError(
            f"{config.model_type}: layers of type {', '.join(unsafe)} carry one running state through the whole row, "
            "so two responses would leak into each other",
            hint="use a model with ordinary attention layers",
        )
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"model type {config.model_type!r} is not supported",
            hint=f"supported: {', '.join(sorted(FAMILIES))}",
        )
    return family
