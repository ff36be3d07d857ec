"""A look at the first pictures of a source: are their files there?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmpo.errors import Quarantined
from mmpo.files.paths import inside
from mmpo.packages import PYDICOM
from mmpo.preflight.context import PreflightContext

LOOKED_AT = 200
"""Pictures of a source whose files are looked for."""


def check_pictures(
    context: PreflightContext,
    key: tuple[str, ...],
    pictures: Sequence[tuple[Path, str]],
    links: bool,
    *,
    films: bool = False,
) -> list[int]:
    """Sizes of the files among the first pictures. None there at all is an error, some missing a warning. `films` may
    be DICOM files."""
    looked = pictures[:LOOKED_AT]
    sizes: list[int] = []
    first: tuple[str, str | None] | None = None
    for root, path in looked:
        try:
            file = inside(root, path, links=links)
            if not file.exists():
                raise Quarantined("decode", "missing", path)
            sizes.append(file.stat().st_size)
            if films and not PYDICOM.here and _is_dicom(file):
                context.error(key, f"{path} is a DICOM film, which needs the package pydicom", PYDICOM.install)
                films = False
        except Quarantined as error:
            first = first or (f"{error.reason}: {error.detail}", _picture_hint(error, root))
        except OSError as error:
            first = first or (f"{path}: {error.strerror}", None)
    if looked and not sizes and first is not None:
        context.error(
            key, f"none of the {len(looked)} pictures looked at can be opened; the first is {first[0]}", first[1]
        )
    elif first is not None:
        missing = len(looked) - len(sizes)
        context.warn(key, f"{missing} of {len(looked)} pictures looked at can't be opened; the first is {first[0]}")
    return sizes


def _is_dicom(file: Path) -> bool:
    from mmpo.radiology.films import is_dicom

    with open(file, "rb") as stream:
        return is_dicom(stream.read(132))


def _picture_hint(error: Quarantined, root: Path) -> str:
    if error.reason == "path_escape":
        return "pictures lie below the folder of images; links out of it need allow_links: true"
    return f"paths start in {root}: is that the folder of the pictures?"
