"""SENTINEL's sentence pairs (Peng et al. 2025, arXiv:2507.12455): two ways to continue a description.

    MODEL_data_pair.jsonl   {"image_id", "image_path", "question", "context", "y_win", "y_lose", "type", …} a line
    MODEL_SENTINEL_8_6k.json   {"IMAGE": [{"question", "context", "y_win", "y_lose", "type"}, …], …}

`context` is the description so far: it becomes an assistant message at the end of the prompt, which both sentences
continue. An image is a file's name or a number, which is Visual Genome's; else `image_path` gives its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import below, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, pair_of
from mmpo.data.pair import PreferencePair, text_message


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    number = data.get("image_id")
    images = _images(data, str(number), context)
    if not images:
        raise bad("no_image", "neither a number in `image_id` nor `image_path`")
    said = data.get("context") or ""
    if not isinstance(said, str):
        raise bad("bad_type", f"`context` is a {type(said).__name__}")
    prompt = messages_of([("user", need(data, "question"))], len(images), trim=True)
    gap = " " if said and not said[-1].isspace() else ""
    if said:
        prompt.append(text_message("assistant", said))
    noted = {"image_id": None if number is None else str(number), "type": data.get("type")}
    yield pair_of(
        row, "sentinel", images=images, noted=noted, prompt=prompt,
        chosen=gap + need(data, "y_win", "win"), rejected=gap + need(data, "y_lose", "lose"),
        # A description goes on behind its sentence: that it ends there is not to be learnt.
        unfinished=data.get("is_last_sent") is not True,
    )  # fmt: skip


def _images(data: Mapping[str, Any], name: str, context: SourceContext) -> list[bytes | str]:
    if name.isdecimal():
        return [context.visual_genome.path(name)]
    if images := images_of(data, context.images, "image_path", "image"):
        return images
    file = PurePosixPath(name)
    if data.get("image_id") is None or not file.suffix:
        return []
    path = below(name, context.images)
    if file.stem.isdecimal() and not (context.images / path).is_file():  # the file's name alone: 2339.jpg
        return [context.visual_genome.path(file.stem)]
    return [path]


def _fits(row: Mapping[str, Any]) -> bool:
    return {"question", "context", "y_win", "y_lose"} <= row.keys()


SENTINEL = Format("sentinel", "SENTINEL: `question`, `context`, `y_win`, `y_lose`", read, _fits)
