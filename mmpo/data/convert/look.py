"""A look at the first rows of a source: whether their pictures are there, and how much of them a row brings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.data.convert.format import Converts, SourceContext
from mmpo.data.convert.guard import shown_images
from mmpo.data.convert.run import detected, format_named, options_of, pairs_of
from mmpo.data.convert.sources import RowSource
from mmpo.errors import Quarantined
from mmpo.files.paths import inside


@dataclass(frozen=True)
class FirstRows:
    """Counts and sizes of the first rows. `root` is the folder that paths of pictures start from; of `pictures` files
    named, `missing` can't be opened. A row has `row_bytes` of its own (as JSON) and brings `bytes_each` of pictures
    that lie in files. `more`: there are further rows."""

    root: Path
    rows: int
    more: bool
    pictures: int
    missing: int
    first_missing: str
    row_bytes: float
    bytes_each: float


def look(
    source: Path,
    images: Path | None,
    source_format: str | None,
    split: str,
    options: Mapping[str, Any],
    *,
    allow_links: bool = False,
) -> FirstRows:
    """Read the first rows. Raises `UserError` where they are of no known format, or of one without such `options`."""
    rows = RowSource(source, split)
    reader = detected(rows) if source_format is None else format_named(source_format, "read")
    root = images if images is not None else (source if source.is_dir() else source.parent)
    context = SourceContext(source, root, options_of(reader, options))
    sizes: list[int] = []
    missing: list[str] = []
    for row in rows.first:
        try:
            pairs = pairs_of(reader, row, context, ())
        except Quarantined:
            continue  # the conversion lists it
        for path in dict.fromkeys(path for pair in pairs for path in _paths(pair)):
            try:
                sizes.append(inside(root, path, links=allow_links).stat().st_size)
            except Quarantined as error:
                missing.append(error.detail or path)
            except OSError as error:
                missing.append(f"{path} ({error.strerror})")
    count = max(len(rows.first), 1)
    text = sum(len(json.dumps(row.data, default=repr, ensure_ascii=False)) for row in rows.first)
    return FirstRows(
        root=root,
        rows=len(rows.first),
        more=sum(1 for _ in zip(range(len(rows.first) + 1), rows, strict=False)) > len(rows.first),
        pictures=len(sizes) + len(missing),
        missing=len(missing),
        first_missing=missing[0] if missing else "",
        row_bytes=text / count,
        bytes_each=sum(sizes) / count,
    )


def _paths(pair: Converts) -> Iterator[str]:
    for image in shown_images(pair):
        if isinstance(image, str):
            yield image
    for video in pair.videos or ():
        if video.get("path"):
            yield str(video["path"])
