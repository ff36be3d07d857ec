"""From messages, images and response texts to token ids and pixel tensors.

Four rules keep training, scoring and generation consistent:

* The number of placeholders an image takes is asked of the processor, never computed here.
* A response is tokenized in the place where the model will write it: after the chat template's generation prompt. Its
  ids therefore are the ids that generation would produce.
* A response ends with the end-of-sequence token exactly once.
* Text never turns into special tokens: only the chat template writes those, and only an image part shows an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from mmpo.chat.chat_template import render
from mmpo.data.plain_text import Encoded, PlainText
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import (
    ProcessedImages,
    margins,
    placeholder_among_several,
    placeholders_for,
    process_images,
    processor_facts,
)

__all__ = [
    "ProcessedImages",
    "begun_tokens",
    "encode_prompt",
    "encode_response",
    "placeholders_for",
    "process_images",
    "prompt_words",
    "response_offsets",
    "split_begun",
    "token_weights",
]

PromptMessage = Mapping[str, Any]
Offsets = list[tuple[int, int]]

PROBE: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
MARK = "\u2042\u2042"  # stands for a response while the template is read; no template contains it


def encode_prompt(
    vlm: VLM,
    messages: Sequence[PromptMessage],
    images: int | Sequence[Sequence[int]] = 0,
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of a conversation, with image placeholders expanded.

    `images` is the number of images (families with a fixed image size) or `ProcessedImages.placeholders` of the images
    and videos in the order in which the messages show them; the token row has the same. Raises `UserError` if the
    messages show another number of images, or images that were prepared for a prompt with several alone, or the other
    way round.

    With `add_generation_prompt`, an assistant message at the end is an answer begun: the model continues it. Its tokens
    are those that training finds in the prompt of a pair whose responses continue it (`begun_tokens`)."""
    begun = ""
    if add_generation_prompt:
        messages, begun = split_begun(messages)
    ids = _encode_conversation(vlm, messages, images, add_generation_prompt).ids
    return [*ids, *begun_tokens(vlm, begun)] if begun else ids


def split_begun(messages: Sequence[PromptMessage]) -> tuple[Sequence[PromptMessage], str]:
    """A conversation without the assistant message at its end, and the text of that: an answer begun, else empty."""
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        return messages, ""
    parts = _structured(messages[-1])["content"]
    if other := next((part["type"] for part in parts if part["type"] != "text"), ""):
        raise UserError(f"the answer begun shows a part of type {other!r}", hint="an answer is text alone")
    return messages[:-1], "".join(part["text"] for part in parts)


def begun_tokens(vlm: VLM, begun: str, following: Sequence[str] = ()) -> list[int]:
    """The tokens of the beginning of an answer that it has whatever of `following` comes behind it: with a word joined
    to it, its last may differ. With nothing given the beginning itself is encoded, but for spaces at its end, which
    belong to the token of the next word."""
    rows = []
    begun = begun if following else begun.rstrip(" \t")
    if not begun:
        return []
    for text in following or [""]:
        ids, offsets = response_tokens(vlm, begun + text, eos=False)
        rows.append(
            [token for token, (a, end) in zip(ids, offsets, strict=True) if end <= len(begun) and a < len(begun)]
        )
    equal = (len(set(tokens)) == 1 for tokens in zip(*rows, strict=False))
    return rows[0][: sum(takewhile(bool, equal))]


def prompt_words(
    vlm: VLM, messages: Sequence[PromptMessage], images: int | Sequence[Sequence[int]] = 0
) -> list[tuple[str, list[int]]]:
    """The words of the user's own text, in order, each with the places of its tokens in `encode_prompt`. Nothing of
    the template, no image and no special token is among them; a token that two words share belongs to neither."""
    encoded = _encode_conversation(vlm, messages, images, True)
    spans: list[tuple[int, int]] = []
    cursor = 0
    for message in messages:
        for part in _structured(message)["content"]:
            if part["type"] != "text":
                continue
            at = encoded.text.find(part["text"].strip(), cursor)
            if at < 0:  # the template changed the text: the two can't be told apart
                continue
            cursor = at + len(part["text"].strip())
            if message["role"] == "user":
                spans += [(at + m.start(), at + m.end()) for m in _WORD.finditer(part["text"].strip())]
    special = set(vlm.tokenizer.all_special_ids) | set(vlm.tokenizer.added_tokens_decoder)
    owners: list[list[int]] = [[] for _ in encoded.offsets]
    for number, (start, end) in enumerate(spans):
        for token, (a, b) in enumerate(encoded.offsets):
            if a < end and start < b:
                owners[token].append(number)
    places: list[list[int]] = [[] for _ in spans]
    for token, own in enumerate(owners):
        if len(own) == 1 and encoded.ids[encoded.places[token]] not in special:
            places[own[0]].append(encoded.places[token])
    return [(encoded.text[a:b], found) for (a, b), found in zip(spans, places, strict=True) if found]


class _Conversation(NamedTuple):
    """A rendered conversation: its `text`, the `ids` with placeholders expanded, and for each token before expansion
    the characters it covers and the place of its (first) id."""

    text: str
    ids: list[int]
    offsets: Offsets
    places: list[int]


def _encode_conversation(
    vlm: VLM, messages: Sequence[PromptMessage], images: int | Sequence[Sequence[int]], add_generation_prompt: bool
) -> _Conversation:
    expansions = placeholders_for(vlm, images) if isinstance(images, int) else images
    text = rendered(vlm, messages, add_generation_prompt=add_generation_prompt)
    written = vlm.processor.image_token  # by the template, for an image; Gemma 3's placeholders are another token
    if expansions and any(around := margins(vlm)):
        text = text.replace(written, around[0] + written + around[1])
    text, ids, offsets = _tokenize_conversation(vlm, text)
    visual = {vlm.tokenizer.convert_tokens_to_ids(written)}
    if vlm.family.video_keys:
        visual.add(vlm.tokenizer.convert_tokens_to_ids(vlm.processor.video_token))
    if (shown := sum(token in visual for token in ids)) != len(expansions):
        parts = [part["type"] for message in messages for part in _structured(message)["content"]]
        if shown < len(expansions) and "video" in parts:
            raise UserError(
                f"{vlm.source}: the chat template leaves out the prompt's videos",
                hint="use the model's own template, or video_input: frames",
            )
        raise UserError(
            f"the prompt shows {shown} image(s) but {len(expansions)} were given",
            hint='every image needs one {"type": "image"} part',
        )
    if vlm.family.count_key is not None:
        _check_company(vlm, [own for own in expansions if vlm.image_token_id in own])
    expanded: list[int] = []
    places: list[int] = []
    remaining = iter(expansions)
    for token in ids:
        places.append(len(expanded))
        expanded.extend(next(remaining) if token in visual else [token])
    return _Conversation(text, expanded, offsets, places)


def _check_company(vlm: VLM, images: Sequence[Sequence[int]]) -> None:
    """Raises `UserError` for images prepared for another number of images: features differ, and no shape shows it."""
    several = placeholder_among_several(vlm) if images else []
    if any((list(own) == several) != (len(images) > 1) for own in images):
        raise UserError(
            f"{vlm.family.name} prepares the images of a prompt with several differently from a single one, and "
            f"this prompt shows {len(images)}",
            hint="process_images(…, several=True) for prompts with more than one image, and only for those",
        )


def encode_response(vlm: VLM, text: str, eos: bool = True) -> list[int]:
    """Token ids of a response as the model would write it, without anything in front; `eos` appends the end token."""
    return response_tokens(vlm, text, eos)[0]


def response_offsets(vlm: VLM, text: str, eos: bool = True) -> Offsets:
    """For each token of `encode_response`, the characters `[start, end)` of `text` it covers ((n, n) for the end
    token).
    """
    return response_tokens(vlm, text, eos)[1]


def token_weights(offsets: Offsets, spans: Sequence[Mapping[str, Any]], default: float = 1.0) -> list[float]:
    """Token weights from weighted character spans: a token takes the weight of the first span that it overlaps."""
    weights = []
    for start, end in offsets:
        hit = (
            float(s["weight"]) for s in spans if start < s["end"] and s["start"] < max(end, start + 1) and end > start
        )
        weights.append(next(hit, default))
    return weights


def response_tokens(vlm: VLM, text: str, eos: bool = True) -> tuple[list[int], Offsets]:
    """`encode_response` and `response_offsets` at once."""
    plain = plain_text(vlm)
    head, lead, tail = response_frame(vlm)
    head_ids = processor_facts(vlm).setdefault("head_ids", plain.encode(head).ids)
    answer = plain.hide(text)
    full = plain.encode(head + lead + answer + tail)
    ids, offsets, shift = full.ids, full.offsets, len(head) + len(lead)
    if ids[: len(head_ids)] == head_ids:
        ids, offsets = ids[len(head_ids) :], offsets[len(head_ids) :]
    else:  # the tokenizer merges across the border; generation starts a fresh token there, so do we
        alone = plain.encode(lead + answer + tail)
        ids, offsets, shift = alone.ids, alone.offsets, len(lead)
    offsets = [(min(max(a - shift, 0), len(text)), min(max(b - shift, 0), len(text))) for a, b in offsets]
    ended = bool(ids) and ids[-1] in {vlm.eos_id, *vlm.end_ids}
    if ended and not eos:
        ids, offsets = ids[:-1], offsets[:-1]
    elif eos and not ended:
        ids, offsets = [*ids, vlm.eos_id], [*offsets, (len(text), len(text))]
    return ids, offsets


def response_frame(vlm: VLM) -> tuple[str, str, str]:
    """The text around a response in the chat template: generation prompt, separator before it, end marker after it."""
    cache = processor_facts(vlm)
    if "frame" not in cache:
        head = rendered(vlm, PROBE, add_generation_prompt=True)
        answered = [*PROBE, {"role": "assistant", "content": [{"type": "text", "text": MARK}]}]
        full = rendered(vlm, answered)
        before, _, after = full.partition(MARK)
        # A template that writes the answer after anything but its own generation prompt (a thinking block, say):
        # keep the generation prompt, that is where generation starts.
        lead = before[len(head) :] if before.startswith(head) else ""
        cache["frame"] = (head, lead, after.rstrip())
    return cache["frame"]


def rendered(vlm: VLM, messages: Sequence[PromptMessage], *, add_generation_prompt: bool = False) -> str:
    """The messages as the model's chat template writes them; what looks like a special token in a text is a mark."""
    template = getattr(vlm.processor, "chat_template", None) or vlm.family.template
    if template is None:
        raise UserError(
            f"{vlm.source}: the processor has no chat template", hint="add chat_template.jinja to the model folder"
        )
    return render(
        vlm.processor,
        _hidden(plain_text(vlm), messages),
        source=vlm.source,
        template=template if isinstance(template, str) else None,
        add_generation_prompt=add_generation_prompt,
    )


def plain_text(vlm: VLM) -> PlainText:
    """The `PlainText` of this model, which keeps users' text apart from its special tokens."""
    cache = processor_facts(vlm)
    if "plain_text" not in cache:
        names = ("image_token", "video_token", "audio_token")
        written = [token for name in names if isinstance(token := getattr(vlm.processor, name, None), str)]
        ends = vlm.tokenizer.convert_ids_to_tokens(sorted({vlm.eos_id, *vlm.end_ids}))
        cache["plain_text"] = PlainText(vlm.tokenizer, [*written, *ends])
    found: PlainText = cache["plain_text"]
    return found


def _hidden(plain: PlainText, messages: Sequence[PromptMessage]) -> list[dict[str, Any]]:
    """Structured messages whose texts hold marks for what looks like a special token."""
    structured = [_structured(message) for message in messages]
    for message in structured:
        parts = [part for part in message["content"] if part["type"] == "text"]
        for part, text in zip(parts, plain.hide_parts([part["text"] for part in parts]), strict=True):
            part["text"] = text
    return structured


def _structured(message: PromptMessage) -> dict[str, Any]:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]
    return {"role": message["role"], "content": parts}


def _tokenize_conversation(vlm: VLM, text: str) -> Encoded:
    """Token ids and the characters they cover, with the begin-of-sequence token exactly once, whether the template or
    the tokenizer adds it."""
    encoded = plain_text(vlm).encode(text)
    bos = vlm.tokenizer.bos_token_id
    adds_bos = processor_facts(vlm).setdefault(
        "adds_bos", bos is not None and list(vlm.tokenizer("").input_ids)[:1] == [bos]
    )
    if adds_bos and bos not in encoded.ids:
        return Encoded(encoded.text, [bos, *encoded.ids], [(0, 0), *encoded.offsets])
    return encoded
