"""The builder `pairs_from_candidates`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings, needs_classes
from mmpo.errors import UserError

if TYPE_CHECKING:
    from mmpo.data_builders.candidates.tables import CandidateTables


def checked_photos(settings: PairsFromCandidatesSettings, tables: CandidateTables) -> tuple[Path, Sequence[str]]:
    """The folder of the candidates' photos, and their paths in it. UserError where the settings don't fit them."""
    root = settings.images or Path(tables.card["root"])
    if not tables.images:
        raise UserError(f"{settings.candidates}: no picture has candidates")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of photos", hint="name it with `images`")
    if tables.settings.claims == "text" and settings.pairs.needs_classes:
        raise UserError(f"{settings.candidates}: {needs_classes(settings.pairs.maker)}")
    asked = tables.card["evidence"]["sources"]
    if unknown := [label for label in settings.sources or () if label not in asked]:
        raise UserError(
            f"sources: {unknown[0]!r} judged none of {settings.candidates}", hint=f"there are: {', '.join(asked)}"
        )
    return root, tables.images


def look(settings: PairsFromCandidatesSettings) -> Iterator[tuple[Path, str]]:
    """The photos of the candidates."""
    from mmpo.data_builders.candidates.tables import CandidateTables

    root, paths = checked_photos(settings, CandidateTables(settings.candidates))
    return ((root, path) for path in paths)


ENTRY = Entry(PairsFromCandidatesSettings, "mmpo.data_builders.from_candidates.build:PairsFromCandidates", look)
