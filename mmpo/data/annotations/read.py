"""Annotated images: what is in a picture according to people. Reads COCO instances and mmpo's own JSON Lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.data.pair import is_number
from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.files.images import MAX_PIXELS, load_image
from mmpo.outside import begins_with_list, names_its_file, read_json, stream_list

Box = tuple[float, float, float, float]

COCO_KEYS = frozenset({b"info", b"images", b"annotations", b"categories", b"licenses", b"type"})
"""What a COCO file holds at its top."""


@dataclass(frozen=True)
class AnnotatedObject:
    """One object. `bbox_xywh` in pixels from the top left corner; None where only the name is known."""

    name: str
    bbox_xywh: Box | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """A phrase about a part of the picture; the box in pixels, None where only the phrase is known."""

    phrase: str
    bbox_xywh: Box | None = None


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


@names_its_file("annotations")
def read_annotations(
    path: str | Path,
    images: str | Path | None = None,
    *,
    captions: str | Path | None = None,
    categories: list[str] | None = None,
) -> Iterator[AnnotatedImage]:
    """Read COCO instances, Visual Genome or a list of rows (`.json`), or rows as JSON Lines (`.jsonl`), one image after
    another, in the order of the file. Visual Genome is named by its `image_data.json` (see `visual_genome`).

    `images` is the folder that image paths are relative to; the annotation file's own folder by default. `captions` is
    a COCO captions file to go with a COCO instances file. A COCO file's category names are added to `categories`, where
    given, with the first image. Every image has an id of its own, as text: `1` and `"1"` are one id twice. Images that
    are listed but missing on disk are yielded too: opening them is what quarantines them. UserError names the file and
    the row of anything malformed.

    Rows: `{"image": "a.jpg", "id"?: …, "objects"?: ["dog", {"name": "cat", "bbox"?: [x, y, w, h],
    "attributes"?: {…}}], "captions"?: ["…"], "regions"?: ["a dog", {"phrase": "a cat", "bbox"?: [x, y, w, h]}],
    "width"?: …, "height"?: …}`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such annotation file")
    root = Path(images) if images is not None else path.parent
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images", hint=f"where the paths of {path.name} start")
    if path.suffix == ".jsonl":
        if captions is not None:
            raise UserError(f"{captions}: a captions file goes with COCO files", hint="put `captions` in the rows")
        return _rows(path, root)
    if begins_with_list(path) and captions is None:
        from mmpo.data.annotations.visual_genome import is_visual_genome, read_visual_genome

        first: Any = next(stream_list(path), {})
        if is_visual_genome(first):
            return read_visual_genome(path, root)
        if isinstance(first, dict):
            return _rows(path, root)
    beside = Path(captions) if captions is not None else None
    return _read_coco(path, root, beside, [] if categories is None else categories)


def read_coco_folder(folder: str | Path, images: str | Path | None = None) -> Iterator[AnnotatedImage]:
    """Read COCO's own `annotations` folder: every `instances_SPLIT.json` with the `captions_SPLIT.json` beside it.

    Image ids are unique over COCO's splits of one year; an id that two splits share is an error. Raises UserError where
    the folder has no instances file.
    """
    folder = Path(folder)
    files = sorted(folder.glob("instances_*.json"))
    if not files:
        raise UserError(f"{folder}: no instances_*.json in this folder", hint="COCO's annotations folder holds them")
    seen: dict[str, Path] = {}
    for file in files:
        captions = file.with_name(file.name.replace("instances_", "captions_", 1))
        for image in read_annotations(file, images=images, captions=captions if captions.is_file() else None):
            if image.id in seen:
                raise UserError(f"{file}: image id {image.id} is in {seen[image.id].name} too")
            seen[image.id] = file
            yield image


def is_coco(path: str | Path) -> bool:
    """Whether a JSON file begins like a COCO file, by its first key; nothing but the first kilobyte is read."""
    with open(path, "rb") as file:
        first = re.match(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(\w+)"', file.read(1024))
    return first is not None and first[1] in COCO_KEYS


def _rows(path: Path, root: Path) -> Iterator[AnnotatedImage]:
    """mmpo's own rows."""
    seen: dict[str, str] = {}
    for where, row in read_records(path):
        name = _string(row.get("image"), f"{where}: `image`")
        identity = name if row.get("id") is None else _key(row, "id", where)
        if identity in seen:
            raise UserError(f"{where}: id {identity!r} is in {seen[identity]} too", hint="give each row its own")
        seen[identity] = place if (place := where.rpartition(":")[2]).startswith("#") else f"line {place}"
        yield AnnotatedImage(
            id=identity,
            path=name,
            root=root,
            width=_size(row.get("width"), f"{where}: `width`"),
            height=_size(row.get("height"), f"{where}: `height`"),
            objects=tuple(
                _line_object(item, f"{where}: objects[{index}]")
                for index, item in enumerate(_list(row.get("objects", []), f"{where}: `objects`"))
            ),
            captions=tuple(
                _string(item, f"{where}: captions[{index}]")
                for index, item in enumerate(_list(row.get("captions", []), f"{where}: `captions`"))
            ),
            regions=tuple(
                _line_region(item, f"{where}: regions[{index}]")
                for index, item in enumerate(_list(row.get("regions", []), f"{where}: `regions`"))
            ),
        )


def _line_region(item: Any, where: str) -> Region:
    if isinstance(item, str):
        return Region(_string(item, where))
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a phrase or an object with `phrase`, got {item!r}")
    bbox = item.get("bbox")
    return Region(_string(item.get("phrase"), f"{where}: `phrase`"), None if bbox is None else _box(bbox, where))


def _line_object(item: Any, where: str) -> AnnotatedObject:
    if isinstance(item, str):
        return AnnotatedObject(_string(item, where))
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a name or an object with `name`, got {item!r}")
    attributes = item.get("attributes", {})
    if not isinstance(attributes, dict):
        raise UserError(f"{where}: `attributes` must be an object, got {attributes!r}")
    bbox = item.get("bbox")
    return AnnotatedObject(
        _string(item.get("name"), f"{where}: `name`"), None if bbox is None else _box(bbox, where), attributes
    )


def _read_coco(path: Path, root: Path, captions_path: Path | None, categories: list[str]) -> Iterator[AnnotatedImage]:
    data = _coco_file(path, ("images", "annotations", "categories"))
    names: dict[str, str] = {}
    for where, category in _records(data, "categories", path):
        key, name = _key(category, "id", where), _string(category.get("name"), f"{where}: `name`")
        if names.setdefault(key, name) != name:
            raise UserError(f"{where}: category id {key} is {names[key]!r} and {name!r}", hint="ids must differ")
    categories += names.values()
    images: dict[str, Mapping[str, Any]] = {}
    for where, image in _records(data, "images", path):
        key = _key(image, "id", where)
        if key in images:
            raise UserError(
                f"{where}: image id {key} is used twice", hint='ids are compared as text: 1 and "1" are the same'
            )
        _string(image.get("file_name"), f"{where}: `file_name`")
        images[key] = image
    objects: dict[str, list[AnnotatedObject]] = {}
    for where, annotation in _records(data, "annotations", path):
        owner = _known(_key(annotation, "image_id", where), images, "image", where)
        name = names[_known(_key(annotation, "category_id", where), names, "category", where)]
        objects.setdefault(owner, []).append(_coco_object(annotation, name, where))
    captions: dict[str, list[str]] = {}
    if captions_path is not None:
        for where, annotation in _records(_coco_file(captions_path, ("annotations",)), "annotations", captions_path):
            text = _string(annotation.get("caption"), f"{where}: `caption`")
            captions.setdefault(_key(annotation, "image_id", where), []).append(text.strip())
    for (where, image), key in zip(_records(data, "images", path), images, strict=True):
        yield AnnotatedImage(
            id=key,
            path=image["file_name"],
            root=root,
            width=_size(image.get("width"), f"{where}: `width`"),
            height=_size(image.get("height"), f"{where}: `height`"),
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
    return AnnotatedObject(name, None if bbox is None else _box(bbox, where), attributes)


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
    for index, record in enumerate(_list(data[key], f"{path}: `{key}`")):
        where = f"{path}: {key}[{index}]"
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected an object, got {record!r}")
        yield where, record


def _key(record: Mapping[str, Any], key: str, where: str) -> str:
    """An id as text, as pairs and answers carry it: files write one id as a number here and as a string there."""
    value = record.get(key)
    if not (is_number(value) or (isinstance(value, str) and value.strip())):
        raise UserError(f"{where}: `{key}` must be a number or a string, got {value!r}")
    return str(value)


def _known(key: str, known: Mapping[str, Any], kind: str, where: str) -> str:
    if key not in known:
        raise UserError(f"{where}: {kind} {key} is not in the file")
    return key


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must be a non-empty string, got {value!r}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list, got {type(value).__name__}")
    return value


def _size(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise UserError(f"{where} must be a number of pixels, got {value!r}")
    return value


def _box(value: Any, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        raise UserError(f"{where}: `bbox` must be four numbers [x, y, width, height], got {value!r}")
    x, y, width, height = map(float, value)
    if width < 0 or height < 0:
        raise UserError(f"{where}: `bbox` has a negative size: {value!r}", hint="boxes are [x, y, width, height]")
    return x, y, width, height
