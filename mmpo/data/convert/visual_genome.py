"""Paths of Visual Genome images by their ids, below the folder that holds `VG_100K` and `VG_100K_2`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mmpo.errors import Quarantined, UserError
from mmpo.outside import read_json

FOLDERS = ("VG_100K", "VG_100K_2", "")


class VisualGenome:
    """`image_data.json` in the root decides, where it is there (the last two parts of each image's `url`); without it
    both folders are tried."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _listed(self) -> dict[int, str] | None:
        file = self.root / "image_data.json"
        if not file.is_file():
            return None
        try:
            return {int(item["image_id"]): "/".join(item["url"].split("/")[-2:]) for item in read_json(file)}
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            raise UserError(f"{file}: expected a list of objects with `image_id` and `url`") from None

    def path(self, image_id: str | int) -> str:
        """Quarantined for an id that is no number, or that has no image."""
        try:
            number = int(image_id)
        except (TypeError, ValueError, ArithmeticError):
            raise Quarantined("convert", "bad_image_id", f"{image_id!r} is not a Visual Genome id") from None
        if self._listed is not None:
            if number not in self._listed:
                raise Quarantined("decode", "missing", f"image {number} is not in image_data.json")
            return self._listed[number]
        for folder in FOLDERS:
            path = f"{folder}/{number}.jpg".lstrip("/")
            if (self.root / path).is_file():
                return path
        raise Quarantined("decode", "missing", f"{number}.jpg in VG_100K or VG_100K_2 below the images folder")
