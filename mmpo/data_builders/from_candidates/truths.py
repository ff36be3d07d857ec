"""What the evidence knows about a picture, in the form in which annotations are read: present, absent, or open."""

from __future__ import annotations

from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.truth import Truth
from mmpo.data_builders.candidates.records import JudgedPicture


def truth_of_picture(picture: JudgedPicture, root: Path = Path()) -> Truth:
    """The agreed verdicts as facts about the picture; what is uncertain stays open. Classes that are there come without
    boxes: how many there are, and where, is not known."""
    present = picture.names("present")
    objects = tuple(AnnotatedObject(name) for name in sorted(present))
    image = AnnotatedImage(picture.image, picture.image, root, picture.width, picture.height, objects)
    marked = {item.name: (item,) for item in objects}
    return Truth(image, present, marked, picture.names("absent"))
