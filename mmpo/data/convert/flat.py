"""Flat JSON records of three papers: a question, two answers, an image.

SeVa (arXiv:2404.10501)     {"image_id": "x.jpg", "question", "chosen", "reject"}
MIA-DPO (arXiv:2410.17637)  {"id", "image": [paths], "prompt" with <image> or <image-placeholder>, "chosen", "rejected"}
mDPO (arXiv:2406.11839)     {"img_path", "prompt" in the Vicuna template, "chosen", "rejected"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import below, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, pair_of
from mmpo.data.pair import PreferencePair

VICUNA = re.compile(r"(?:.*?\s)?USER: (?P<question>.*?)\s*ASSISTANT:\s*", re.DOTALL)
SEVA_SUFFIXES = ("", ".jpg", ".png", ".jpeg")


def read_seva(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    name = below(str(need(data, "image", "image_id", kind=(str, int))), context.images)
    # TextVQA's ids come with their suffix in the published pairs, other sets' may not.
    path = next((name + suffix for suffix in SEVA_SUFFIXES if (context.images / (name + suffix)).is_file()), name)
    yield pair_of(
        row, "seva", images=[path], noted={"image_id": data.get("image_id")},
        prompt=messages_of([("user", need(data, "question"))], 1, trim=True),
        chosen=need(data, "chosen"), rejected=need(data, "reject", "rejected"),
    )  # fmt: skip


def read_mia(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    images = images_of(data, context.images, "image", "images")
    prompt = need(data, "prompt").replace("<image-placeholder>", "<image>")
    if isinstance(data.get("image"), str):  # the trainer then takes every tag out and puts one in front
        prompt = prompt.replace("<image>", "").lstrip("\n")
    yield pair_of(
        row, "mia-dpo", id=data.get("id"), images=images,
        prompt=messages_of([("user", prompt)], len(images), trim=True),
        chosen=need(data, "chosen"), rejected=need(data, "rejected"),
    )  # fmt: skip


def read_mdpo(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    prompt = need(data, "prompt")
    template = VICUNA.fullmatch(prompt)
    turns = prompt.count("USER:"), prompt.count("ASSISTANT:")
    if turns != ((1, 1) if template else (0, 0)):
        raise bad("bad_template", "expected one USER and one ASSISTANT turn in `prompt`")
    images = images_of(data, context.images, "img_path")
    yield pair_of(
        row, "mdpo", images=images, chosen=need(data, "chosen"), rejected=need(data, "rejected"),
        prompt=messages_of([("user", template["question"] if template else prompt)], len(images), trim=True),
    )  # fmt: skip


def _fits_seva(row: Mapping[str, Any]) -> bool:
    return {"question", "chosen", "reject"} <= row.keys() and "answer" not in row


def _fits_mia(row: Mapping[str, Any]) -> bool:
    if not ({"image", "prompt", "chosen", "rejected"} <= row.keys() and isinstance(row["prompt"], str)):
        return False
    paths = isinstance(row["image"], list) and all(isinstance(path, str) for path in row["image"])
    return "gt" in row or "<image-placeholder>" in row["prompt"] or paths


def _fits_mdpo(row: Mapping[str, Any]) -> bool:
    return {"img_path", "prompt", "chosen", "rejected"} <= row.keys()


SEVA = Format("seva", "SeVa: `question`, `image_id`, `chosen`, `reject`", read_seva, _fits_seva)
MIA_DPO = Format("mia-dpo", "MIA-DPO: a list of images, tags in `prompt`", read_mia, _fits_mia)
MDPO = Format("mdpo", "mDPO: `img_path`, `prompt` in the Vicuna template", read_mdpo, _fits_mdpo)
