"""The builder `mia`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.errors import UserError


def look(settings: MiaSettings) -> Iterator[tuple[Path, str]]:
    """The pictures of the records."""
    from mmpo.data_builders.mia.plan import read_records

    records, _ = read_records(settings.data, settings.limit)
    if not records:
        raise UserError(f"{settings.data}: no record can be used", hint="LLaVA's conversations, or rows of `image`, …")
    root = settings.images or settings.data.parent
    return ((Path(root), record.image) for record in records)


ENTRY = Entry(MiaSettings, "mmpo.data_builders.mia.build:MiaPairs", look)
