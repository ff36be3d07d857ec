"""Pairs that need no model: `Is there a dog?` about pictures without one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field

from mmpo.data.annotations.read import AnnotatedImage, read_annotations
from mmpo.data.pair import PreferencePair
from mmpo.data_builders.builders import register
from mmpo.data_builders.entry import PairsBuilt
from mmpo.data_builders.run import Builder, Written
from mmpo.data_builders.units import Units, file_digest
from mmpo.errors import Quarantined
from mmpo.settings import ANNOTATIONS, FOLDER, Settings


class AbsentSettings(Settings):
    """The `build:` section of a recipe with `builder: absent_objects`."""

    builder: Literal["absent_objects"]
    annotations: Annotated[Path, ANNOTATIONS] = Field(description="Which objects are in which image.")
    images: Annotated[Path | None, FOLDER] = Field(None, description="Left out: the annotation file's folder.")
    per_image: int = Field(1, ge=1, description="Pairs of each image.")
    shard_size: int = Field(64, ge=1, description="Images in a unit of work.")
    seed: int = 0


def look(settings: AbsentSettings) -> Iterator[tuple[Path, str]]:
    """The pictures, so that missing ones are told before anything runs."""
    return ((image.root, image.path) for image in read_annotations(settings.annotations, settings.images))


@register("absent_objects", AbsentSettings, look=look)
class AbsentObjects(Builder[AbsentSettings, AnnotatedImage, PairsBuilt]):
    result, label, title = PairsBuilt, "looking for what is absent", "Pairs about absent objects"

    def plan(self) -> Sequence[AnnotatedImage]:
        images = list(read_annotations(self.settings.annotations, self.settings.images))
        self.names = sorted({name for image in images for name in image.object_names})
        return images

    def source(self) -> dict[str, Any]:
        return super().source() | {"content of annotations": file_digest(self.settings.annotations)}

    def pairs(self, source: AnnotatedImage, outcome: Mapping[str, Any], units: Units[Any]) -> list[PreferencePair]:
        absent = [name for name in self.names if name not in source.object_names]
        if not absent:
            raise Quarantined("filter", "everything_is_there")
        source.load()  # raises Quarantined for a picture that can't be used
        drawn = Random(f"{self.settings.seed} {source.id}").sample(absent, min(self.settings.per_image, len(absent)))
        return [
            PreferencePair.simple(
                id=f"{source.id}-{name}",
                image=(source.root / source.path).read_bytes(),
                question=f"Is there a {name} in the image?",
                chosen=f"No, there is no {name} in the image.",
                rejected=f"Yes, there is a {name} in the image.",
            )
            for name in drawn
        ]

    def summary(self, units: Units[Any], written: Written) -> PairsBuilt:
        return PairsBuilt.of("absent_objects", written.table, written.pairs)
