"""The builder `candidates`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.entry import Entry


def look(settings: CandidateSettings) -> Iterator[tuple[Path, str]]:
    """The photos. Those of `not_in` are looked for as well."""
    from mmpo.data.photos import OtherPhotos, list_photos

    for place in settings.not_in:
        if place.is_dir():
            list_photos(place, links=settings.allow_links)
        else:
            OtherPhotos().add_hashes(place)
    photos = list_photos(settings.images, links=settings.allow_links)[: settings.limit]
    return ((photo.root, photo.path) for photo in photos)


ENTRY = Entry(CandidateSettings, "mmpo.data_builders.candidates.build:build", look)
