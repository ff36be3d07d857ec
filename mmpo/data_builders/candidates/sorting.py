"""Which photos are used: those that can be decoded, one of each group that look alike, none of other people's tests."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.data.photos import ListedPhoto, OtherPhotos, SeenPhoto, clusters, list_photos, look_at
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.units import digest
from mmpo.errors import Quarantined, UserError
from mmpo.evidence.evidence import Evidence, SeenPicture
from mmpo.files.atomic import read_sealed, write_sealed
from mmpo.progress import track

logger = logging.getLogger("mmpo.build")
COCO_TEST = "COCO_val2014_"
"""How pictures of COCO's validation set are called, of which POPE, CHAIR and others take theirs."""


@dataclass(frozen=True)
class SortedPhotos:
    """The photos in order: those used, each with what was `seen` of it and its cluster, and those `left_out`."""

    used: list[ListedPhoto]
    seen: list[SeenPhoto]
    clusters: list[str]
    left_out: list[tuple[ListedPhoto, Quarantined]]
    warnings: list[str]

    def reasons(self) -> Counter[str]:
        """How many were left out, by reason."""
        return Counter(f"{error.stage}: {error.reason}" for _, error in self.left_out)


def sort_photos(
    photos: Sequence[ListedPhoto], settings: CandidateSettings, cache: Path, evidence: Evidence
) -> SortedPhotos:
    """Look at every photo, and decide. What was seen is kept in `cache`, once nothing is wrong with the whole. Raises
    `UserError` where a control picture is among them."""
    kept = _kept(cache, photos)
    seen = kept or list(track(look_at(photos), "reading photos", len(photos)))
    others = other_photos(settings)
    paths = [photo.path for photo in photos]
    same = clusters(seen, paths) if settings.near_duplicates else list(paths)
    found = SortedPhotos([], [], [], [], warnings_about(paths))
    for photo, one, first in zip(photos, seen, same, strict=True):
        if isinstance(one, Quarantined):
            found.left_out.append((photo, one))
        elif (match := others.match(one)) is not None:
            name, distance = match
            detail = f"{name}: " + ("the same pixels" if distance is None else f"{distance} of 256 bits differ")
            found.left_out.append((photo, Quarantined("filter", "benchmark", detail)))
        elif first != photo.path:
            found.left_out.append((photo, Quarantined("filter", "duplicate_of", str(first))))
        else:
            found.used.append(photo)
            found.seen.append(one)
            found.clusters.append(photo.path)
    evidence.refuse_shared(
        SeenPicture(one.key, one.dhash, photo.path) for photo, one in zip(found.used, found.seen, strict=True)
    )
    if kept is None:
        write_sealed(cache, {"listed": _listing(photos), "photos": [_row(one) for one in seen]})
    return found


def other_photos(settings: CandidateSettings) -> OtherPhotos:
    """The photos of `not_in`. UserError for a folder without photos and a list without hashes."""
    others = OtherPhotos()
    for place in settings.not_in:
        if place.is_dir():
            listed = list_photos(place, links=settings.allow_links)
            for photo, one in zip(listed, track(look_at(listed), f"reading {place.name}", len(listed)), strict=True):
                if isinstance(one, SeenPhoto):
                    others.add(one, f"{place.name}/{photo.path}")
        elif place.is_file():
            others.add_hashes(place)
        else:
            raise UserError(f"{place}: no such folder or list of hashes (`not_in`)")
    return others


def warnings_about(paths: Sequence[str]) -> list[str]:
    """A warning for photos that are called like those of benchmarks."""
    named = [path for path in paths if COCO_TEST in path]
    if not named:
        return []
    return [
        f"{len(named):,} photos are called {COCO_TEST}…, as those of COCO's validation set, which POPE, CHAIR and "
        "others measure on; `not_in` leaves out what you name there"
    ]


def _kept(cache: Path, photos: Sequence[ListedPhoto]) -> list[SeenPhoto | Quarantined] | None:
    if not cache.exists():
        return None
    try:
        stored = read_sealed(cache)
    except UserError as error:
        logger.warning("%s; the photos are read again", error.message)
        return None
    return [_seen(row) for row in stored["photos"]] if stored["listed"] == _listing(photos) else None


def _listing(photos: Sequence[ListedPhoto]) -> str:
    return digest(json.dumps([photo.path for photo in photos]).encode())


def _row(one: SeenPhoto | Quarantined) -> list[Any]:
    if isinstance(one, Quarantined):
        return [one.stage, one.reason, one.detail]
    return [one.key, one.dhash, one.width, one.height]


def _seen(row: Sequence[Any]) -> SeenPhoto | Quarantined:
    return Quarantined(*row) if len(row) == 3 else SeenPhoto(*row)
