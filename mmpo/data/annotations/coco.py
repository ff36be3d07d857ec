"""COCO's instances files, with the captions file that goes with one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpo.data.annotations.fields import box_of, key_of, list_of, pixels_of, text_of
from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.errors import UserError
from mmpo.outside import read_json

COCO_KEYS = frozenset({b"info", b"images", b"annotations", b"categories", b"licenses", b"type"})
"""The keys at the top level of a COCO file."""


def is_coco(path: str | Path) -> bool:
    """True if the first key of a JSON file is one of a COCO file's; only the first kilobyte is read."""
    with open(path, "rb") as file:
        first = re.match(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(\w+)"', file.read(1024))
    return first is not None and first[1] in COCO_KEYS


def read_coco(path: Path, root: Path, captions_path: Path | None, categories: list[str]) -> Iterator[AnnotatedImage]:
    data = _coco_file(path, ("images", "annotations", "categories"))
    names: dict[str, str] = {}
    for where, category in _records(data, "categories", path):
        key, name = key_of(category, "id", where), text_of(category.get("name"), f"{where}: `name`")
        if names.setdefault(key, name) != name:
            raise UserError(f"{where}: category id {key} is {names[key]!r} and {name!r}", hint="ids must differ")
    categories += names.values()
    images: dict[str, Mapping[str, Any]] = {}
    for where, image in _records(data, "images", path):
        key = key_of(image, "id", where)
        if key in images:
            raise UserError(
                f"{where}: image id {key} is used twice", hint='ids are compared as text: 1 and "1" are the same'
            )
        text_of(image.get("file_name"), f"{where}: `file_name`")
        images[key] = image
    objects: dict[str, list[AnnotatedObject]] = {}
    for where, annotation in _records(data, "annotations", path):
        owner = _known(key_of(annotation, "image_id", where), images, "image", where)
        name = names[_known(key_of(annotation, "category_id", where), names, "category", where)]
        objects.setdefault(owner, []).append(_coco_object(annotation, name, where))
    captions: dict[str, list[str]] = {}
    if captions_path is not None:
        for where, annotation in _records(_coco_file(captions_path, ("annotations",)), "annotations", captions_path):
            text = text_of(annotation.get("caption"), f"{where}: `caption`")
            captions.setdefault(key_of(annotation, "image_id", where), []).append(text.strip())
    for (where, image), key in zip(_records(data, "images", path), images, strict=True):
        yield AnnotatedImage(
            id=key,
            path=image["file_name"],
            root=root,
            width=pixels_of(image.get("width"), f"{where}: `width`"),
            height=pixels_of(image.get("height"), f"{where}: `height`"),
            objects=tuple(objects.get(key, ())),
            captions=tuple(captions.get(key, ())),
        )


def _coco_object(annotation: Mapping[str, Any], name: str, where: str) -> AnnotatedObject:
    attributes = annotation.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise UserError(f"{where}: `attributes` must be an object, got {attributes!r:.60}")
    attributes = dict(attributes)
    if annotation.get("iscrowd"):  # a crowd is there as much as a single object is; its box covers all of it
        attributes["crowd"] = True
    bbox = annotation.get("bbox")
    return AnnotatedObject(name, None if bbox is None else box_of(bbox, where), attributes)


def _coco_file(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such annotation file")
    data = read_json(path)
    missing = [key for key in keys if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(
            f"{path}: not a COCO file, it has no `{missing[0]}`",
            hint=f"COCO files hold {', '.join(keys)}; rows of JSON belong in a .jsonl file",
        )
    return data


def _records(data: Mapping[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, record in enumerate(list_of(data[key], f"{path}: `{key}`")):
        where = f"{path}: {key}[{index}]"
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected an object, got {record!r}")
        yield where, record


def _known(key: str, known: Mapping[str, Any], kind: str, where: str) -> str:
    if key not in known:
        raise UserError(f"{where}: {kind} {key} is not in the file")
    return key
