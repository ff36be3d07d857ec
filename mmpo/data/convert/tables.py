"""RLHF-V and RLAIF-V (arXiv:2312.00849, 2405.17220): Parquet with an embedded image a row.

RLHF-V keeps `{"question", "chosen", "rejected"}` as JSON in the column `text`; RLAIF-V has a column for each. Both come
with `ds_name`, `idx`, `origin_dataset`, `origin_split` and `image_path`; either layout is read under either name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, pair_of
from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined
from mmpo.outside import json_of


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    text = _texts(data)
    images = images_of(data, context.images, "image", "image_path")
    if not images:
        raise bad("no_image", "neither `image` nor `image_path`")
    noted = {name: data.get(name) for name in ("ds_name", "origin_dataset", "origin_split", "image_path")}
    yield pair_of(
        row, "rlhf-v", id=data.get("idx"), images=images, noted=noted,
        prompt=messages_of([("user", need(text, "question"))], len(images), trim=True),
        chosen=need(text, "chosen"), rejected=need(text, "rejected"),
    )  # fmt: skip


def _texts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    text = data.get("text")
    if text is None:
        return data
    try:
        found = json_of(text) if isinstance(text, str) else text
    except ValueError as error:
        raise bad("not_json", f"`text`: {error}") from None
    if not isinstance(found, Mapping):
        raise bad("bad_type", "`text` does not hold an object")
    return found


def _fits_text(row: Mapping[str, Any]) -> bool:
    if "text" not in row or not ("image" in row or "image_path" in row):
        return False
    try:
        return "rejected" in _texts(row)  # benchmarks keep a question in a column of this name
    except Quarantined:
        return False


def _fits_columns(row: Mapping[str, Any]) -> bool:
    return {"question", "chosen", "rejected"} <= row.keys() and ("image" in row or "image_path" in row)


RLHF_V = Format("rlhf-v", "RLHF-V: Parquet, JSON in `text`", read, _fits_text)
RLAIF_V = Format("rlaif-v", "RLAIF-V: Parquet, a column each", read, _fits_columns)
