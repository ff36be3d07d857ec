"""From messages, images and response texts to token ids and pixel tensors.

Three rules keep training, scoring and generation consistent:

* The number of placeholders an image takes is asked of the processor, never computed here.
* A response is tokenized in the place where the model will write it: after the chat template's generation prompt. Its
  ids therefore are the ids that generation would produce.
* A response ends with the end-of-sequence token exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mmpo.errors import UserError
from mmpo.models.loading import VLM

Message = Mapping[str, Any]
Offsets = list[tuple[int, int]]

_PROBE: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
_MARK = "\u2042\u2042"  # stands for a response while the template is read; no template contains it


@dataclass
class ProcessedImages:
    """Images ready for the tower. `tensors` as the processor made them (first axis: images); `placeholders[i]` the
    token ids that stand for image `i` in a prompt."""

    tensors: dict[str, torch.Tensor]
    placeholders: list[list[int]]

    def __len__(self) -> int:
        return len(self.placeholders)


def process_images(vlm: VLM, images: Sequence[Image.Image]) -> ProcessedImages:
    """Run the processor once over `images`; an empty list gives no tensors."""
    if not images:
        return ProcessedImages({}, [])
    token = vlm.processor.image_token
    out = vlm.processor(
        text=[token] * len(images),
        images=[[image] for image in images],
        add_special_tokens=False,
        return_tensors=None,
    )
    tensors = {key: torch.as_tensor(_stack(out[key])) for key in vlm.family.pixel_keys if key in out}
    return ProcessedImages(tensors, [list(ids) for ids in out["input_ids"]])


def placeholders_for(vlm: VLM, n_images: int) -> list[list[int]]:
    """Placeholders of `n_images` images in a family where every image takes the same number of tokens."""
    if not vlm.family.fixed_image_size:
        raise UserError(f"{vlm.family.name}: the number of image tokens depends on the image; process the images first")
    cache = _cache(vlm)
    if "placeholder" not in cache and n_images:
        cache["placeholder"] = process_images(vlm, [Image.new("RGB", (32, 32))]).placeholders[0]
    return [cache["placeholder"]] * n_images if n_images else []


def encode_prompt(
    vlm: VLM,
    messages: Sequence[Message],
    images: int | Sequence[Sequence[int]] = 0,
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of a conversation, with image placeholders expanded.

    `images` is the number of images (families with a fixed image size) or `ProcessedImages.placeholders` of the
    images in the order in which the messages show them. Raises `UserError` if the messages show another number of
    images."""
    expansions = placeholders_for(vlm, images) if isinstance(images, int) else images
    text = _render(vlm, messages, add_generation_prompt=add_generation_prompt)
    ids = _tokenize_conversation(vlm, text)
    image_id = vlm.image_token_id
    if (shown := ids.count(image_id)) != len(expansions):
        raise UserError(
            f"the prompt shows {shown} image(s) but {len(expansions)} were given",
            hint='every image needs one {"type": "image"} part, and the text must not contain the image token itself',
        )
    if vlm.family.max_images is not None and len(expansions) > vlm.family.max_images:
        raise UserError(f"{vlm.family.name} takes at most {vlm.family.max_images} image(s) a conversation, not {shown}")
    if not expansions:
        return ids
    expanded: list[int] = []
    remaining = iter(expansions)
    for token in ids:
        if token == image_id:
            expanded.extend(next(remaining))
        else:
            expanded.append(token)
    return expanded


def encode_response(vlm: VLM, text: str, eos: bool = True) -> list[int]:
    """Token ids of a response as the model would write it, without anything in front; `eos` appends the end token."""
    return _encode_response(vlm, text, eos)[0]


def response_offsets(vlm: VLM, text: str, eos: bool = True) -> Offsets:
    """For each token of `encode_response`, the characters `[start, end)` of `text` it covers ((n, n) for the end
    token).
    """
    return _encode_response(vlm, text, eos)[1]


def token_weights(offsets: Offsets, spans: Sequence[Mapping[str, Any]], default: float = 1.0) -> list[float]:
    """Token weights from weighted character spans: a token takes the weight of the first span that it overlaps."""
    weights = []
    for start, end in offsets:
        hit = (
            float(s["weight"]) for s in spans if start < s["end"] and s["start"] < max(end, start + 1) and end > start
        )
        weights.append(next(hit, default))
    return weights


def _encode_response(vlm: VLM, text: str, eos: bool) -> tuple[list[int], Offsets]:
    tokenizer = vlm.tokenizer
    head, lead, tail = _response_frame(vlm)
    head_ids = _cache(vlm).setdefault("head_ids", tokenizer(head, add_special_tokens=False).input_ids)
    full = tokenizer(head + lead + text + tail, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets, shift = list(full.input_ids), list(full.offset_mapping), len(head) + len(lead)
    if ids[: len(head_ids)] == head_ids:
        ids, offsets = ids[len(head_ids) :], offsets[len(head_ids) :]
    else:  # the tokenizer merges across the border; generation starts a fresh token there, so do we
        alone = tokenizer(lead + text + tail, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, shift = list(alone.input_ids), list(alone.offset_mapping), len(lead)
    offsets = [(min(max(a - shift, 0), len(text)), min(max(b - shift, 0), len(text))) for a, b in offsets]
    ended = bool(ids) and ids[-1] == vlm.eos_id
    if ended and not eos:
        ids, offsets = ids[:-1], offsets[:-1]
    elif eos and not ended:
        ids, offsets = [*ids, vlm.eos_id], [*offsets, (len(text), len(text))]
    return ids, offsets


def _response_frame(vlm: VLM) -> tuple[str, str, str]:
    """The text around a response in the chat template: generation prompt, separator before it, end marker after it."""
    cache = _cache(vlm)
    if "frame" not in cache:
        head = _render(vlm, _PROBE, add_generation_prompt=True)
        answered = [*_PROBE, {"role": "assistant", "content": [{"type": "text", "text": _MARK}]}]
        full = _render(vlm, answered, add_generation_prompt=False)
        before, _, after = full.partition(_MARK)
        # A template that writes the answer after something else than its own generation prompt (a thinking block, say):
        # keep the generation prompt, that is where generation starts.
        lead = before[len(head) :] if before.startswith(head) else ""
        cache["frame"] = (head, lead, after.rstrip())
    return cache["frame"]


def _render(vlm: VLM, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    if getattr(vlm.processor, "chat_template", None) is None:
        raise UserError(
            f"{vlm.source}: the processor has no chat template", hint="add chat_template.jinja to the model folder"
        )
    return vlm.processor.apply_chat_template(
        [_structured(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
    )


def _structured(message: Message) -> dict[str, Any]:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]
    return {"role": message["role"], "content": parts}


def _tokenize_conversation(vlm: VLM, text: str) -> list[int]:
    """Tokenize with the begin-of-sequence token exactly once, whether the template or the tokenizer adds it."""
    tokenizer = vlm.tokenizer
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    bos = tokenizer.bos_token_id
    adds_bos = _cache(vlm).setdefault("adds_bos", bos is not None and list(tokenizer("").input_ids)[:1] == [bos])
    return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids


def _stack(values: Any) -> Any:
    if isinstance(values, list) and values and isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    if isinstance(values, list):
        import numpy as np

        return np.stack([np.asarray(value) for value in values])
    return values


def _cache(vlm: VLM) -> dict[str, Any]:
    """Per-processor facts that never change, kept on the processor (the template and the tokenizer are fixed after
    loading).
    """
    if not hasattr(vlm.processor, "_mmpo_cache"):
        vlm.processor._mmpo_cache = {}
    cache: dict[str, Any] = vlm.processor._mmpo_cache
    return cache
