"""Pairs that need no model: `Is there a dog?` about pictures without one."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from mmpo.data.annotations.read import AnnotatedImage, read_annotations
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.data_builders.builders import register
from mmpo.errors import Quarantined
from mmpo.resuming import deciding
from mmpo.settings import ANNOTATIONS, FOLDER, Settings


class AbsentSettings(Settings):
    """The `build:` section of a recipe with `builder: absent_objects`."""

    builder: Literal["absent_objects"]
    annotations: Annotated[Path, ANNOTATIONS] = Field(description="Which objects are in which image.")
    images: Annotated[Path | None, FOLDER] = Field(None, description="Left out: the annotation file's folder.")
    per_image: int = Field(1, ge=1, description="Pairs of each image.")
    seed: int = 0


def look(settings: AbsentSettings) -> Iterator[tuple[Path, str]]:
    """The pictures, so that missing ones are told before anything runs."""
    return ((image.root, image.path) for image in read_annotations(settings.annotations, settings.images))


@register("absent_objects", AbsentSettings, look=look)
def build(settings: AbsentSettings, folder: Path) -> None:
    images = list(read_annotations(settings.annotations, settings.images))
    names = sorted({name for image in images for name in image.object_names})
    with PairWriter(folder / "pairs", recipe=deciding(settings)) as writer:
        for image in images[writer.sources_done :]:  # a build that was stopped goes on
            try:
                writer.add(*pairs_of(image, names, settings))
            except Quarantined as error:
                writer.reject(image.id, error)


def pairs_of(image: AnnotatedImage, names: list[str], settings: AbsentSettings) -> list[PreferencePair]:
    absent = [name for name in names if name not in image.object_names]
    if not absent:
        raise Quarantined("filter", "everything_is_there")
    image.load()  # raises Quarantined for a picture that can't be used
    drawn = Random(f"{settings.seed} {image.id}").sample(absent, min(settings.per_image, len(absent)))
    return [
        PreferencePair.simple(
            id=f"{image.id}-{name}",
            image=(image.root / image.path).read_bytes(),
            question=f"Is there a {name} in the image?",
            chosen=f"No, there is no {name} in the image.",
            rejected=f"Yes, there is a {name} in the image.",
        )
        for name in drawn
    ]
