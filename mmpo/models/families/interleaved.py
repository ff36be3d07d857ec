"""Text with image tags as messages, so that a model reads images where the tags are."""

from __future__ import annotations

from typing import Any

from mmpo.data.pair import Message
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import rendered

TAG = "<image>"

_PROBE: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "\u2042a"},
            {"type": "image"},
            {"type": "text", "text": "\u2042b"},
            {"type": "image"},
            {"type": "text", "text": "\u2042c"},
        ],
    }
]


def interleaved(vlm: VLM, text: str) -> list[Message]:
    """One user turn. A line end after a tag is left to the chat template where that writes one itself."""
    if template_writes_line_ends(vlm):
        text = text.replace(f"{TAG}\n", TAG)
    return [{"role": "user", "content": parts_of(text)}]


def parts_of(text: str) -> list[dict[str, Any]]:
    """The pieces of a text with image tags, in order."""
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(text.split(TAG)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def keeps_order(vlm: VLM) -> bool:
    """True if the chat template shows images between pieces of text, rather than all of them first."""
    text = rendered(vlm, _PROBE)
    places = [text.index(mark) for mark in ("\u2042a", "\u2042b", "\u2042c")]
    image = vlm.processor.image_token
    return image in text[places[0] : places[1]] and image in text[places[1] : places[2]]


def template_writes_line_ends(vlm: VLM) -> bool:
    """True if the chat template itself ends the line after an image."""
    return f"{vlm.processor.image_token}\n" in rendered(vlm, _PROBE)
