"""The builder `hallucination_pairs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.errors import UserError


def look(settings: BuildSettings) -> Iterator[tuple[Path, str]]:
    """The annotated images."""
    from mmpo.data.annotations.read import read_annotations

    images = list(read_annotations(settings.annotations, settings.images, captions=settings.captions))
    if not images:
        raise UserError(f"{settings.annotations}: no images are listed there")
    if settings.vocabulary is None and not any(image.object_names for image in images):
        raise UserError(
            f"{settings.annotations}: no image has annotated objects, so nothing can be checked",
            hint="list what is in each image, or name a vocabulary",
        )
    return ((Path(image.root), image.path) for image in images[: settings.limit])


ENTRY = Entry(BuildSettings, "mmpo.data_builders.hallucination.build:build", look)
