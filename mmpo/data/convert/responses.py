"""Groups of scored responses: K answers to one prompt.

    {"images": ["a.png"], "prompt": "What is this?", "responses": [{"text": "A dog.", "score": 0.9}, …]}

`prompt` may be messages, and `videos`, `id` and `provenance` may be there; a score may be null. Pairs of any other
format become groups of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmpo
from mmpo.data.convert.format import Converts, Format, SourceContext
from mmpo.data.convert.media import Media, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, videos_of
from mmpo.data.pair import PreferencePair
from mmpo.data.responses import ResponseGroup, group_of_pair, validate_group
from mmpo.data.rows import group_from_row
from mmpo.data.shards import ResponseWriter
from mmpo.errors import Quarantined, UserError

SCORES = (("chosen", "rejected"), ("chosen_reward", "rejected_reward"))
"""Names under which pairs have scores of both responses, the usual ones first."""


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[ResponseGroup]:
    images = images_of(data, context.images)
    videos = videos_of(data.get("videos"), context.images, None)
    prompt = need(data, "prompt", kind=(str, list))
    if isinstance(prompt, str):
        prompt = messages_of([("user", prompt)], len(images), len(videos or []), trim=True)
    name = data.get("id")
    cells = {
        "id": row.key if name in (None, "") else str(name),
        "prompt": prompt,
        "responses": need(data, "responses", kind=list),
        "provenance": data.get("provenance")
        or {"builder": "convert/responses", "version": mmpo.__version__, "sources": [row.place]},
    }
    try:
        yield validate_group(replace(group_from_row(cells, row.place), images=images, videos=videos), row.place)
    except UserError as error:
        raise bad("invalid", error.message.removeprefix(row.place).lstrip(": ")) from None


class GroupSink:
    """A folder of groups of responses; pairs become groups of two, with their own scores, else 1 and 0."""

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        self.media = media
        self._writer = ResponseWriter(folder, split=facts["split"], recipe=facts["recipe"])
        self.counts = self._writer.counts

    def add(self, *records: Converts) -> None:
        groups = [_scored(one) if isinstance(one, PreferencePair) else one for one in records]
        placed = [(group, self.media.placed(group)) for group in groups]
        self._writer.add(*(replace(group, images=own["images"], videos=own["videos"]) for group, own in placed))

    def reject(self, id: str, error: Quarantined) -> None:
        self._writer.reject(id, error)

    def close(self, title: str, notes: str = "") -> None:
        self._writer.close(title=title, notes=notes)


def _scored(pair: PreferencePair) -> ResponseGroup:
    return group_of_pair(pair, next((names for names in SCORES if {*names} <= {*(pair.scores or {})}), None))


def _fits(row: Mapping[str, Any]) -> bool:
    responses = row.get("responses")
    first = responses[0] if isinstance(responses, list) and responses else None
    return "prompt" in row and "chosen" not in row and isinstance(first, Mapping) and "text" in first


RESPONSES = Format(
    "responses", "groups of scored responses: `prompt`, `responses`", read, _fits, GroupSink, media=("embed", "copy")
)
