"""mmpo's own folders of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import Media
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, checked
from mmpo.data.pair import PreferencePair
from mmpo.data.rows import from_row
from mmpo.data.shards import PairWriter
from mmpo.errors import Quarantined, UserError


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    try:
        pair = from_row(data, row.place)
    except UserError as error:
        raise bad("invalid", error.message.removeprefix(f"{row.place}: ")) from None
    yield checked(pair, row)


class PairSink:
    """A folder as `mmpo build` writes it."""

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        self.media = media
        self._writer = PairWriter(folder, split=facts["split"], recipe=facts["recipe"])
        self.counts = self._writer.counts

    def add(self, *pairs: PreferencePair) -> None:
        whole = [replace(pair, **self.media.placed(pair)) for pair in pairs]
        try:
            self._writer.add(*whole)
        except UserError as error:  # a score that the first rows did not have
            raise bad("no_place", error.message) from None

    def reject(self, id: str, error: Quarantined) -> None:
        self._writer.reject(id, error)

    def close(self, title: str, notes: str = "") -> None:
        self._writer.close(title=title, notes=notes)


def _fits(row: Mapping[str, Any]) -> bool:
    return {"id", "prompt", "chosen", "rejected", "provenance"} <= row.keys()


MMPO = Format("mmpo", "mmpo's own folder of pairs", read, _fits, PairSink, media=("embed", "copy"))
