"""The builder `candidates`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.entry import Entry


def look(settings: CandidateSettings) -> Iterator[tuple[Path, str]]:
    """The photos."""
    from mmpo.data.photos import list_photos

    photos = list_photos(settings.images, links=settings.allow_links)[: settings.limit]
    return ((photo.root, photo.path) for photo in photos)


ENTRY = Entry(CandidateSettings, "mmpo.data_builders.candidates.build:build", look)
