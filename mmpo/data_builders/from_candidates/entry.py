"""The builder `pairs_from_candidates`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings
from mmpo.errors import UserError


def look(settings: PairsFromCandidatesSettings) -> Iterator[tuple[Path, str]]:
    """The photos of the candidates."""
    from mmpo.data_builders.candidates.tables import CandidateTables

    tables = CandidateTables(settings.candidates)
    root = settings.images or Path(tables.card["root"])
    if not tables.images:
        raise UserError(f"{settings.candidates}: no picture has candidates")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of photos", hint="name it with `images`")
    return ((root, path) for path in tables.images)


ENTRY = Entry(PairsFromCandidatesSettings, "mmpo.data_builders.from_candidates.build:PairsFromCandidates", look)
