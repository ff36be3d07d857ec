"""Vision features: each distinct image through the tower once, then wherever a row shows it.

The features enter the model through `mm_encoder_outputs`, so the model itself places them and checks their number
against the placeholders. The object that the encoder returned is passed on whole (some families keep more in it than
the features, for layers above the first)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.families import FeatureContainer
from mmpo.models.loading import VLM
from mmpo.models.processing import TILES
from mmpo.models.unknown import Pixels


def vision_modules(vlm: VLM) -> list[nn.Module]:
    """Tower and projector: everything in the backbone that isn't the language model."""
    language_model = vlm.base.get_decoder()
    return [module for module in vlm.backbone.children() if module is not language_model]


def vision_is_frozen(vlm: VLM) -> bool:
    """True when no tower or projector weight trains and no adapter sits there: policy and reference then see the same
    features.
    """
    own = vlm.backbone.parameters(recurse=False)  # LLaVA-NeXT's newline feature, for one
    if any(parameter.requires_grad for parameter in own):
        return False
    for root in vision_modules(vlm):
        if any(parameter.requires_grad for parameter in root.parameters()):
            return False
        if any(isinstance(module, BaseTunerLayer | ModulesToSaveWrapper) for module in root.modules()):
            return False
    return True


def encode_images(vlm: VLM, tensors: Mapping[str, Tensor], *, frozen: bool) -> Any | None:
    """Features of the distinct images in `tensors`, one tower call; None without images. Without autograd if
    `frozen`.

    The result is the encoder's own, with `pooler_output` a list of `[tokens, h]`, one entry an image. Of a model
    without a record it is just the pixels: the model encodes them itself.
    """
    if not tensors:
        return None
    if vlm.family.features == "own":
        return Pixels(tensors)
    weight = next(vision_modules(vlm)[0].parameters())
    inputs = {
        # float32 pixels must not meet a bfloat16 tower: cast at its door
        key: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for key, value in tensors.items()
        if key != TILES
    }
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        encoded = cast(Any, vlm.backbone).get_image_features(**inputs, return_dict=True)
        features = encoded.pooler_output
        if TILES in tensors:  # [tiles, tokens, h] of all images, one after the other
            features = [part.flatten(0, 1) for part in features.split(tensors[TILES].tolist())]
    encoded.pooler_output = list(features)
    for unused in ("last_hidden_state", "hidden_states", "attentions"):  # nobody reads them again, and they are large
        if getattr(encoded, unused, None) is not None:
            setattr(encoded, unused, None)
    return encoded


def select_images(encoded: Any | None, order: Sequence[int], container: FeatureContainer = "list") -> dict[str, Any]:
    """Model keywords that place image `order[i]` of the encoded ones at the i-th image of the rows.

    `container` is how the family holds features (`Family.features`). Raises `UserError` for an image that isn't there.
    """
    if encoded is None or not order:
        if order:
            raise UserError("the prompts show images but none were given")
        return {}
    features = encoded.pooler_output
    if max(order) >= len(features):
        raise UserError(f"a prompt shows image {max(order)} but only {len(features)} were given")
    chosen = copy.copy(encoded)  # a shallow copy: the features stay shared, the original stays whole
    shown = [features[index] for index in order]
    chosen.pooler_output = shown if container == "list" else torch.cat(shown)[None]
    if (deeper := getattr(encoded, "deepstack_features", None)) is not None:  # Qwen3-VL: added in later layers
        chosen.deepstack_features = [[layer[index] for index in order] for layer in deeper]
    return {"mm_encoder_outputs": {"image": chosen}}
