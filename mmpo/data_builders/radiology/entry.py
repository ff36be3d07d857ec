"""The builder `radiology`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.errors import UserError


def look(settings: RadiologySettings) -> Iterator[tuple[Path, str]]:
    """The first film of each report."""
    from mmpo.radiology.lexicon import load_lexicon
    from mmpo.radiology.reports import RadiologyReport, read_reports

    load_lexicon(*([settings.lexicon] if settings.lexicon else []))
    read = list(islice(read_reports(settings.reports, images=settings.images), settings.limit))
    reports = [report for report in read if isinstance(report, RadiologyReport)]
    if not reports:
        raise UserError(f"{settings.reports}: no report can be read there")
    return ((Path(report.root or "."), path) for report in reports for path in report.images[:1])


ENTRY = Entry(RadiologySettings, "mmpo.data_builders.radiology.build:RadiologyPairs", look)
