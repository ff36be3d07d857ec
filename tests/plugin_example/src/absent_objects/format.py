"""Rows `{"photo", "ask", "good", "bad"}` for `mmpo convert`."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.run import FORMATS
from mmpo.data.convert.texts import messages_of, need, pair_of
from mmpo.data.pair import PreferencePair


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    images = images_of(data, context.images, "photo")
    prompt = messages_of([("user", need(data, "ask"))], len(images))
    yield pair_of(row, "good-bad", images=images, prompt=prompt, chosen=need(data, "good"), rejected=need(data, "bad"))


GOOD_BAD = Format("good-bad", "`photo`, `ask`, `good`, `bad`", read, lambda row: {"photo", "good", "bad"} <= row.keys())

FORMATS.add(GOOD_BAD.name, GOOD_BAD)
