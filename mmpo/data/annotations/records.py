"""Annotated images: what is in a picture according to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.files.images import MAX_PIXELS, load_image

BoxXYWH = tuple[float, float, float, float]


@dataclass(frozen=True)
class AnnotatedObject:
    """One object. `bbox_xywh` in pixels from the top left corner; None where only the name is known."""

    name: str
    bbox_xywh: BoxXYWH | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """A phrase about a part of the picture; the box in pixels, None where only the phrase is known."""

    phrase: str
    bbox_xywh: BoxXYWH | None = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and what is in it. `path` comes from the annotation file, so it is only ever opened through `load`."""

    id: str
    path: str
    root: Path
    width: int | None
    height: int | None
    objects: tuple[AnnotatedObject, ...] = ()
    captions: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()

    @property
    def object_names(self) -> tuple[str, ...]:
        """Each name once, in order of first appearance."""
        return tuple(dict.fromkeys(item.name for item in self.objects))

    def load(self, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """The picture in RGB; Quarantined when it can't be used or its path leaves `root`."""
        return load_image(self.path, root=self.root, max_pixels=max_pixels)
