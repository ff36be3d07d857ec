"""Images as a model family's processor prepares them, one by one, so that any of them can meet any other in a batch.

The number of placeholders an image takes and the tokens between them (row ends, tile names) are the processor's answer,
never computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM

TILES = "image_tiles"
"""Name of the tensor [images] that says how many tiles each image has, in families whose tower sees tiles."""

ROWS = "/rows"
"""Suffix of the tensor [images] that says how many rows of a pixel tensor belong to each video, or to each image in
families without a record."""

KINDS = "visual_kinds"
"""Name of the tensor [images and videos] that says which are which, 0 and 1; there only if there are videos."""

SEVERAL = "among_several"
"""Name of the tensor [images] that says which images a prompt shows with others, 1 and 0, in families that then
prepare them in another way (`Family.count_key`)."""

NOTES = frozenset({TILES, KINDS, SEVERAL})
"""Tensors that mmpo adds to the processor's."""

_TEXT_KEYS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


@dataclass
class ProcessedImages:
    """Images (and videos) ready for the tower. `tensors` as the processor made them (first axis: images, or their
    tiles, patches or frames one image after the other); `placeholders[i]` the token ids that stand for image `i` in a
    prompt."""

    tensors: dict[str, Tensor]
    placeholders: list[list[int]]

    def __len__(self) -> int:
        return len(self.placeholders)


def process_images(vlm: VLM, images: Sequence[Image.Image], *, several: bool = False) -> ProcessedImages:
    """Prepare `images` with the processor; an empty list gives no tensors. `several`: a prompt shows each of them
    with others, which some families prepare differently from the only image of a prompt.

    Images of one size go through it together. Where sizes differ, each goes alone: processors pad what they get
    together, and what an image becomes must not depend on its neighbours."""
    if not images:
        return ProcessedImages({}, [])
    if vlm.family.fixed_image_size:
        return _process(vlm, images)
    several = several and vlm.family.count_key is not None
    done = [_process(vlm, [image], several) for image in images]
    return ProcessedImages(join_images([one.tensors for one in done]), [one.placeholders[0] for one in done])


def process_video(vlm: VLM, frames: Sequence[Image.Image], times: Sequence[float]) -> ProcessedImages:
    """Prepare one video: sampled frames in order, with their times in seconds. It counts as one image wherever images
    are numbered, and `{"type": "video"}` shows it in a message. Raises `UserError` for a family without videos, and
    `Quarantined` for frames of different sizes."""
    if not vlm.family.video_keys:
        raise UserError(f"{vlm.family.name} takes no videos", hint="show the frames as images")
    if not frames or len(frames) != len(times):
        raise UserError(f"{len(frames)} frames with {len(times)} times", hint="give every frame its time in seconds")
    if other := next((frame.size for frame in frames if frame.size != frames[0].size), None):
        sizes = " and ".join(f"{width} x {height}" for width, height in (frames[0].size, other))
        raise Quarantined("decode", "uneven_frames", f"one video has frames of {sizes}")
    span = times[-1] - times[0]
    rate = (len(times) - 1) / span if span > 0 else 1.0
    # Processors think in frame numbers of the source; at a thousand frames a second these are the times themselves.
    metadata = {
        "total_num_frames": round(1000 * len(frames) / rate),
        "fps": 1000.0,
        "frames_indices": [round(1000 * time) for time in times],
    }
    out = vlm.processor(
        text=[vlm.processor.video_token],
        videos=[np.stack([np.asarray(frame.convert("RGB")) for frame in frames])],
        video_metadata=[metadata],
        do_sample_frames=False,
        add_special_tokens=False,
    )
    tensors = video_tensors(vlm, {key: _tensor(out[key]) for key in vlm.family.video_keys})
    return ProcessedImages(tensors, [[int(token) for token in out["input_ids"][0]]])


def video_tensors(vlm: VLM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One video's tensors in the form that batches hold: frames (or patches) first, with their number."""
    pixels, *others = vlm.family.video_keys
    rows = tensors[pixels] if vlm.family.grid_positions else tensors[pixels][0]
    return {
        pixels: rows,
        **{key: tensors[key] for key in others},
        pixels + ROWS: torch.tensor([len(rows)]),
        KINDS: torch.tensor([1]),
    }


def join_images(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several images, one after the other along the first axis.

    Where other axes differ (numbers of tiles, heights, widths) they are padded with zeros at the end: every family
    that has such axes takes the padding away again by its sizes or masks."""
    if any(KINDS in part for part in parts):  # the last tensor of a part has one entry an image
        parts = [part if KINDS in part or not part else {**part, KINDS: _zeros_like_last(part)} for part in parts]
    keys = {key: None for part in parts for key in part}
    return {key: _concatenate([part[key] for part in parts if key in part]) for key in keys}


def placeholders_for(vlm: VLM, n_images: int) -> list[list[int]]:
    """Placeholders of `n_images` images in a family where every image takes the same number of tokens."""
    if not vlm.family.fixed_image_size:
        raise UserError(f"{vlm.family.name}: the number of image tokens depends on the image; process the images first")
    cache = processor_facts(vlm)
    if "placeholder" not in cache and n_images:
        cache["placeholder"] = process_images(vlm, [Image.new("RGB", (32, 32))]).placeholders[0]
    return [cache["placeholder"]] * n_images if n_images else []


def placeholder_among_several(vlm: VLM) -> list[int]:
    """Placeholder token ids of one image among several, in a family that prepares those in another way."""
    cache = processor_facts(vlm)
    if "among_several" not in cache:
        cache["among_several"] = process_images(vlm, [Image.new("RGB", (32, 32))], several=True).placeholders[0]
    found: list[int] = cache["among_several"]
    return found


def margins(vlm: VLM) -> tuple[str, str]:
    """Plain text that the processor writes around an image's tokens (Gemma 3: line ends). It may merge with the text
    next to it, so it has to be tokenized together with that."""
    if "margins" not in processor_facts(vlm):
        process_images(vlm, [Image.new("RGB", (32, 32))])
    found: tuple[str, str] = processor_facts(vlm)["margins"]
    return found


def processor_facts(vlm: VLM) -> dict[str, Any]:
    """Per-processor facts that never change, kept on the processor (the template and the tokenizer are fixed after
    loading).
    """
    if not hasattr(vlm.processor, "_mmpo_cache"):
        vlm.processor._mmpo_cache = {}
    cache: dict[str, Any] = vlm.processor._mmpo_cache
    return cache


def _process(vlm: VLM, images: Sequence[Image.Image], several: bool = False) -> ProcessedImages:
    """One call of the processor. To be prepared as one of `several`, an image is shown together with itself."""
    family = vlm.family
    copies = 2 if several else 1
    out = vlm.processor(
        text=[vlm.processor.image_token * copies] * len(images),
        images=[[image] * copies for image in images],
        add_special_tokens=False,
        return_tensors=None,
    )
    out = {"pixel_values" if key == "pixel_values_images" else key: value for key, value in out.items()}  # Video-LLaVA
    keys = family.pixel_keys
    if family.features == "own":
        keys = tuple(key for key in out if key not in _TEXT_KEYS)
        processor_facts(vlm)["token_keys"] = [key for key in ("token_type_ids", "mm_token_type_ids") if key in out]
    elif unknown := sorted(set(out) - _TEXT_KEYS - set(keys) - {*family.ignored_keys, family.count_key}):
        raise UserError(
            f"{vlm.source}: the processor returns {', '.join(unknown)}, which mmpo doesn't know for {family.name}",
            hint="leaving it out could change what the model sees; please report the model's name",
        )
    tensors = {key: _tensor(out[key])[::copies] for key in keys if key in out}
    if family.features == "tiles":
        tensors[TILES] = torch.tensor([len(tensors[keys[0]])])
    if family.features == "own":
        tensors |= {key + ROWS: torch.tensor([len(value)]) for key, value in tensors.items()}
    if family.count_key is not None:
        tensors[SEVERAL] = torch.full((len(images),), int(several))
    found = [_placeholder(vlm, [int(token) for token in ids]) for ids in out["input_ids"]]
    return ProcessedImages(tensors, [ids[: len(ids) // copies] for ids in found])


def _placeholder(vlm: VLM, ids: list[int]) -> list[int]:
    """The part of `ids` that is the image: from its first added token to its last. What stands around it is kept as
    the processor's margins."""
    bos = vlm.tokenizer.bos_token_id
    if bos is not None and bos in ids:  # a processor that writes the beginning of the sequence by itself
        ids = ids[1:] if ids[0] == bos else ids[: ids.index(bos)]
    added = [place for place, token in enumerate(ids) if token in _added_tokens(vlm)]
    if not added:
        raise UserError(f"{vlm.source}: the processor writes no image tokens", hint="check the processor's files")
    first, last = added[0], added[-1] + 1
    around = (vlm.tokenizer.decode(ids[:first]), vlm.tokenizer.decode(ids[last:]))
    if processor_facts(vlm).setdefault("margins", around) != around:
        raise UserError(
            f"{vlm.family.name}: the processor writes text into some images ({around[0]!r})",
            hint="switch off `do_pan_and_scan` in preprocessor_config.json",
        )
    return ids[first:last]


def _added_tokens(vlm: VLM) -> set[int]:
    cache = processor_facts(vlm)
    if "added_tokens" not in cache:
        cache["added_tokens"] = set(vlm.tokenizer.added_tokens_decoder)
    added: set[int] = cache["added_tokens"]
    return added


def _zeros_like_last(part: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros(len(list(part.values())[-1]), dtype=torch.long)


def model_tensors(vlm: VLM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One prompt's tensors as the model's own forward takes them: without what mmpo adds to them, videos
    stacked."""
    plain = {key: value for key, value in tensors.items() if key not in NOTES and not key.endswith(ROWS)}
    if vlm.family.count_key is not None and SEVERAL in tensors:
        several = tensors[SEVERAL].tolist()
        plain[vlm.family.count_key] = torch.tensor([len(several)] if any(several) else [1] * len(several))
    if vlm.family.video_keys and not vlm.family.grid_positions and (pixels := vlm.family.video_keys[0]) in plain:
        plain[pixels] = torch.stack(plain[pixels].split(tensors[pixels + ROWS].tolist()))
    return plain


def _tensor(values: Any) -> Tensor:
    """A tensor from a processor's output: a tensor, an array, or lists of either."""
    if isinstance(values, list | tuple):
        return torch.stack([_tensor(value) for value in values])
    return torch.as_tensor(values)


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    widest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [want - have for want, have in zip(widest, tensor.shape[1:], strict=True)]
        pad = [amount for short in reversed(missing) for amount in (0, short)]
        padded.append(torch.nn.functional.pad(tensor, pad) if any(missing) else tensor)
    return torch.cat(padded) if len(padded) > 1 else padded[0]
