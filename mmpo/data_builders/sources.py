"""What each builder reads, looked at before anything runs: the files are opened by the builder's own readers, so a
mistake in them is told as the build would tell it, hours earlier. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmpo.data_builders.builders import BUILDERS, builder_of
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.data_builders.video.settings import VideoRewardSettings
from mmpo.errors import UserError

Pictures = Iterator[tuple[Path, str]]
"""(folder, path below it) of the pictures or videos that the source names."""


def look(settings: Any) -> Pictures:
    """The pictures that the source of a build names. Raises `UserError` for a source that the builder would refuse."""
    name = builder_of(settings)
    found = _LOOKS.get(name) or BUILDERS[name].look
    return iter(()) if found is None else iter(found(settings))


def _annotated(settings: BuildSettings) -> Pictures:
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


def _records(settings: MiaSettings) -> Pictures:
    from mmpo.data_builders.mia.plan import read_records

    records, _ = read_records(settings.data, settings.limit)
    if not records:
        raise UserError(f"{settings.data}: no record can be used", hint="LLaVA's conversations, or rows of `image`, …")
    root = settings.images or settings.data.parent
    return ((Path(root), record.image) for record in records)


def _videos(settings: VideoRewardSettings) -> Pictures:
    from mmpo.data.video_lists import read_videos

    items = list(islice(read_videos(settings.videos, settings.root, settings.captions), settings.limit))
    if not items:
        raise UserError(f"{settings.videos}: no video is listed there")
    return ((Path(item.root), item.video) for item in items)


def _reports(settings: RadiologySettings) -> Pictures:
    from mmpo.radiology.lexicon import load_lexicon
    from mmpo.radiology.reports import RadiologyReport, read_reports

    load_lexicon(*([settings.lexicon] if settings.lexicon else []))
    read = list(islice(read_reports(settings.reports, images=settings.images), settings.limit))
    reports = [report for report in read if isinstance(report, RadiologyReport)]
    if not reports:
        raise UserError(f"{settings.reports}: no report can be read there")
    return ((Path(report.root or "."), path) for report in reports for path in report.images[:1])


_LOOKS: dict[str, Callable[[Any], Pictures]] = {
    "hallucination_pairs": _annotated,
    "mia": _records,
    "video_rewards": _videos,
    "radiology": _reports,
}
