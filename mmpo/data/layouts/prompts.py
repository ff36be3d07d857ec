"""The words around a question once its image is one of several: pointers, interleaved images, boxes, refusals."""

from __future__ import annotations

import random
import re
from itertools import product

from mmpo.errors import Quarantined

TAG = "<image>"
CAPTION_PREFIX = "<image>\nProvide a one-sentence caption for the provided image.\n"
"""The beginning of TextVQA records in LLaVA's instruction data."""

_BOX = re.compile(r"\[\s*\d*\.?\d+\s*(?:,\s*\d*\.?\d+\s*){3}\]")
_POINTER = re.compile(r"\bImage\s?(\d+)\b")

_LEAD_INS = (
    "For", "Regarding", "Concerning", "Pertaining to", "With respect to", "As for", "Focusing on", "In relation to",
    "When it comes to", "With regards to", "About", "Referring to", "In terms of",
)  # fmt: skip
_KINDS = ("image", "picture", "subplot", "plot")
_PLACES = ("in the center", "at the center", "in the middle", "located in the center")
PHRASES: tuple[str, ...] = tuple(
    f"{lead} the {noun}"
    for lead, noun in product(
        _LEAD_INS,
        [f"{where} {kind}" for where, kind in product(("central", "middle"), _KINDS)]
        + [f"{kind} {place}" for kind, place in product(_KINDS, _PLACES)],
    )
)
"""Pointers to the inner picture: every lead-in with every noun phrase."""


def has_box(text: str) -> bool:
    """True if the text holds a bracketed list of four unsigned numbers: a box, which is wrong once its image moved."""
    return bool(_BOX.search(text))


def bare(question: str, *, official: bool = False) -> str:
    """The question without image tags. `official` keeps a line end that stood before a tag at the end."""
    text = question.replace(TAG + "\n", "").replace(TAG, "")
    return text if official else text.strip()


def lowered(question: str, *, official: bool = False) -> str:
    """The question to put behind a pointer: its first letter small, unless it begins with an acronym or with I.
    `official` lowers those too. A name at the beginning looks like any word and is lowered."""
    first = re.match(r"\w+", question)
    word = first.group() if first else ""
    if not official and (word == "I" or any(letter.isupper() for letter in word[1:])):
        return question
    return question[:1].lower() + question[1:]


def pointed(question: str, pointer: str, *, official: bool = False) -> str:
    """`pointer`, a comma, and the question behind it."""
    return f"{pointer}, {lowered(bare(question, official=official), official=official)}"


def sequence_text(question: str, count: int, index: int, *, official: bool = False) -> str:
    """`Image1:<image>` and so on, a line each, then the question about image `index` (from 1).

    `official`: a caption request of TextVQA is recognized by its beginning alone, and left as it is without it."""
    head = "".join(f"Image{number}:{TAG}\n" for number in range(1, count + 1))
    return head + _pointed_at(question, index, official)


def collage_text(question: str, index: int, *, official: bool = False) -> str:
    """One image, then the question about the picture `index` (from 1) in it."""
    return f"{TAG}\n" + _pointed_at(question, index, official)


def inner_text(question: str, rng: random.Random, *, official: bool = False) -> str:
    """One image, then the question about its inner picture, behind a phrase drawn from `PHRASES`."""
    return f"{TAG}\n" + pointed(question, rng.choice(PHRASES), official=official)


def _pointed_at(question: str, index: int, official: bool) -> str:
    if question.startswith(CAPTION_PREFIX):
        rest = question.removeprefix(CAPTION_PREFIX)
        return f"In Image{index}, provide a one-sentence caption for the provided image.\n{rest}"
    return pointed(question, f"In Image{index}", official=official)


def check_prompt(text: str, images: int, pictures: int) -> None:
    """Raises Quarantined unless the text shows `images` images and names none beyond `pictures`."""
    shown = text.count(TAG)
    if shown != images:
        reason = "no_placeholder" if not shown else "image_count"
        raise Quarantined("prompt", reason, f"{shown} {TAG} for {images} images")
    beyond = [int(number) for number in _POINTER.findall(text) if not 1 <= int(number) <= pictures]
    if beyond:
        raise Quarantined("prompt", "index_beyond", f"Image{beyond[0]} of {pictures}")
