"""Vision features: each distinct image through the tower once, then wherever a row shows it.

The features enter the model through `mm_encoder_outputs`, so the model itself places them and checks their number
against the placeholders. The object that the encoder returned is passed on whole (some families keep more in it than
the features, for layers above the first)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from PIL import Image
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.crossing import moved
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import KINDS, NOTES, ROWS, SEVERAL, TILES, process_images
from mmpo.models.families.records import Family, FeatureContainer
from mmpo.models.families.unknown import ProcessedPixels
from mmpo.models.sharded import is_sharded


def vision_modules(vlm: VLM) -> list[nn.Module]:
    """Tower and projector: everything in the backbone that isn't the language model."""
    language_model = vlm.base.get_decoder()
    return [module for module in vlm.backbone.children() if module is not language_model]


def vision_is_frozen(vlm: VLM) -> bool:
    """True if no tower or projector weight trains and no adapter sits there: policy and reference then see the same
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
    """Features of the distinct images in `tensors`, one tower call (and one more for each video); None without images.
    Without autograd if `frozen`.

    The result is the encoder's own, with `pooler_output` a list of `[tokens, h]`, one entry an image. Of a model
    without a record it is just the pixels: the model encodes them itself.
    """
    if KINDS in tensors and shards_are_gathered(vlm):
        raise UserError(
            "a tower cut up between processes is called by all of them alike, and each video is a call of its own",
            hint="video_input: frames, or ZeRO-2, which leaves the tower whole",
        )
    if not tensors and shards_are_gathered(vlm):
        # A process that doesn't call the tower while others do would leave them waiting for its share of the weights.
        tensors = process_images(vlm, [Image.new("RGB", (32, 32))]).tensors
    if not tensors:
        return None
    if vlm.family.features == "own":
        return ProcessedPixels(tensors)
    weight = next(vision_modules(vlm)[0].parameters())
    inputs = {
        # float32 pixels must not enter a bfloat16 tower: cast first
        key: moved(value, weight.device).to(weight.dtype if value.is_floating_point() else value.dtype)
        for key, value in tensors.items()
        if not key.endswith(ROWS) and key not in NOTES
    }
    stills = {key: value for key, value in inputs.items() if key not in vlm.family.video_keys}
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        encoded = _encode_stills(vlm, stills, tensors) if stills else None
        if KINDS not in tensors:
            return encoded
        pixels = vlm.family.video_keys[0]
        videos = _encode_videos(vlm, {k: inputs[k] for k in vlm.family.video_keys}, tensors[pixels + ROWS].tolist())
    return Visuals.of(encoded, videos, tensors[KINDS].tolist())


def shards_are_gathered(vlm: VLM) -> bool:
    """True if the tower's weights are sharded over processes (DeepSpeed's ZeRO-3, FSDP), so that calling it takes all
    of them."""
    return is_sharded(vision_modules(vlm)[0])


@dataclass
class Visuals:
    """Features of images and videos, numbered together. `like[kind]` is an encoder's own output for a kind, to be
    filled with the features that are shown."""

    pooler_output: list[Tensor]
    deepstack_features: list[list[Tensor]] | None
    kinds: list[int]
    like: dict[int, Any]

    @classmethod
    def of(cls, stills: Any | None, videos: Sequence[Any], kinds: list[int]) -> Visuals:
        entries: list[tuple[Any, int]] = []  # (encoder's output, place in it)
        place, waiting = 0, iter(videos)
        for kind in kinds:
            entries.append((next(waiting), 0) if kind else (stills, place))
            place += 1 - kind
        depth = len(getattr(videos[0], "deepstack_features", None) or ())
        deeper = [[output.deepstack_features[level][i] for output, i in entries] for level in range(depth)]
        like = {1: videos[0]} | ({0: stills} if stills is not None else {})
        return cls([output.pooler_output[i] for output, i in entries], deeper or None, kinds, like)


def select_images(encoded: Any | None, order: Sequence[int], family: Family) -> dict[str, Any]:
    """Model keywords that place image `order[i]` of the encoded ones at the i-th image of the rows.

    Raises `UserError` for an image that isn't there.
    """
    if encoded is None or not order:
        if order:
            raise UserError("the prompts show images but none were given")
        return {}
    if max(order) >= len(encoded.pooler_output):
        raise UserError(f"a prompt shows image {max(order)} but only {len(encoded.pooler_output)} were given")
    if not isinstance(encoded, Visuals):
        return {"mm_encoder_outputs": {"image": _chosen(encoded, encoded, order, family.features)}}
    outputs = {}
    for kind, name, container in ((0, "image", family.features), (1, "video", family.video_features)):
        if own := [index for index in order if encoded.kinds[index] == kind]:
            outputs[name] = _chosen(encoded.like[kind], encoded, own, container)
    return {"mm_encoder_outputs": outputs}


def _chosen(like: Any, encoded: Any, order: Sequence[int], container: FeatureContainer) -> Any:
    """An encoder's output with just these features, in the container that the family expects."""
    chosen = copy.copy(like)  # a shallow copy: the features stay shared, the original stays whole
    shown = [encoded.pooler_output[index] for index in order]
    chosen.pooler_output = shown if container == "list" else torch.cat(shown)[None]
    if (deeper := getattr(encoded, "deepstack_features", None)) is not None:  # Qwen3-VL: added in later layers
        chosen.deepstack_features = [[layer[index] for index in order] for layer in deeper]
    return chosen


def _encode_stills(vlm: VLM, inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Any:
    """All images in one tower call. `inputs` are the tower's arguments among `tensors`."""
    several = tensors[SEVERAL].tolist() if SEVERAL in tensors else []
    order: list[int] = []
    if any(several):
        order, counts = _by_company(several)
        inputs = {key: value[order] for key, value in inputs.items()}
        inputs[cast(str, vlm.family.count_key)] = counts
    encoded = cast(Any, vlm.backbone).get_image_features(**inputs, return_dict=True)
    features = encoded.pooler_output
    if TILES in tensors:  # [tiles, tokens, h] of all images, one after the other
        features = [part.flatten(0, 1) for part in features.split(tensors[TILES].tolist())]
    if order:
        place = {image: k for k, image in enumerate(order)}
        features = [features[place[image]] for image in range(len(several))]
    encoded.pooler_output = list(features)
    return _light(encoded)


def _by_company(several: Sequence[int]) -> tuple[list[int], Tensor]:
    """The order in which the tower takes images, and how many each prompt would show: first those that are alone in
    theirs, then all others as if one prompt showed them. One that would be left alone comes twice."""
    order = sorted(range(len(several)), key=lambda image: several[image])
    if sum(several) == 1:
        order.append(order[-1])
    alone = list(several).count(0)
    return order, torch.tensor([1] * alone + [len(order) - alone])


def _encode_videos(vlm: VLM, inputs: Mapping[str, Tensor], rows: Sequence[int]) -> list[Any]:
    """A tower call for each video: stacking videos of different lengths would put padding among their features."""
    pixels, *others = vlm.family.video_keys
    found = []
    for number, part in enumerate(inputs[pixels].split(list(rows))):
        own = {key: inputs[key][number : number + 1] for key in others if key != "second_per_grid_ts"}
        own[pixels] = part if vlm.family.grid_positions else part[None]
        encoded = cast(Any, vlm.backbone).get_video_features(**own, return_dict=True)
        encoded.pooler_output = [torch.cat(list(encoded.pooler_output))]
        found.append(_light(encoded))
    return found


def _light(encoded: Any) -> Any:
    """Without every tower layer's states: they are not read again, and they are large."""
    for unused in ("last_hidden_state", "hidden_states", "attentions"):
        if getattr(encoded, unused, None) is not None:
            setattr(encoded, unused, None)
    return encoded
