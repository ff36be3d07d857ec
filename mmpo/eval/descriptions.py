"""Descriptions made elsewhere, joined to annotated images: what every scorer of descriptions reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from mmpo.data.annotations.coco import is_coco
from mmpo.data.annotations.read import read_annotations, read_coco_folder
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.image_ids import by_names
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import ScoreRequest
from mmpo.outside import begins_with_list
from mmpo.text.vocabulary import ObjectVocabulary

T = TypeVar("T")
Located = Mapping[str, tuple[str, str]]
"""Each image's description, and the file and line it stands at."""


def annotated_images(path: str | Path, captions: str | Path | None = None) -> list[AnnotatedImage] | None:
    """The images of COCO instances (with `captions`, COCO's captions file), of COCO's annotations folder, of mmpo's
    JSON Lines, or of Visual Genome; None where `path` is a table `{"image_id": [objects]}`.
    """
    path = Path(path)
    if path.is_dir():
        if captions is not None:
            raise UserError(f"{captions}: {path} is a folder, its captions files are found by name")
        return list(read_coco_folder(path))
    if path.suffix == ".jsonl" or is_coco(path) or begins_with_list(path):
        return list(read_annotations(path, captions=captions))
    if captions is not None:
        raise UserError(f"{captions}: a captions file goes with COCO instances, and {path} is a table of objects")
    return None


def described(request: ScoreRequest) -> Located:
    """The descriptions to score, by image, under the keys that the options name."""
    keys = request.options.get("image_key", "image_id"), request.options.get("caption_key", "caption")
    return chair.located_captions(request.answers, *keys)


def known_of(located: Located, known: Mapping[str, T], lack: str) -> dict[str, T]:
    """The entry in `known` of each described image. Raises UserError at the line of one without (`lack` says so)."""
    found = by_names(located, known)
    unknown = next((image for image in located if image not in found), None)
    if unknown is not None:
        raise UserError(
            f"{located[unknown][1]}: image {unknown} {lack}",
            hint="add it there, with an empty list if it shows nothing",
        )
    return found


def responses(images: Iterable[AnnotatedImage], located: Located) -> list[tuple[AnnotatedImage, Response]]:
    """The images, whose paths are their names in the answers, with their descriptions."""
    return [(image, Response(located[image.path][0], False)) for image in images]


def vocabulary_read(request: ScoreRequest, vocabulary: ObjectVocabulary) -> str:
    """The vocabulary, in words for the reader of a result."""
    choice = request.options.get("vocabulary", "auto")
    return f"vocabulary: {choice} ({len(vocabulary)} objects), {chair.phrases(vocabulary)}"
