"""Reads annotated images: COCO instances, Visual Genome, or mmpo's own rows, as JSON Lines or a JSON list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpo.data.annotations.coco import read_coco
from mmpo.data.annotations.fields import box_of, key_of, list_of, pixels_of, text_of
from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, Region
from mmpo.data.annotations.visual_genome import is_visual_genome, read_visual_genome
from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.outside import begins_with_list, names_its_file, stream_list


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
        first: Any = next(stream_list(path), {})
        if is_visual_genome(first):
            return read_visual_genome(path, root)
        if isinstance(first, dict):
            return _rows(path, root)
    beside = Path(captions) if captions is not None else None
    return read_coco(path, root, beside, [] if categories is None else categories)


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


def _rows(path: Path, root: Path) -> Iterator[AnnotatedImage]:
    """mmpo's own rows."""
    seen: dict[str, str] = {}
    for where, row in read_records(path):
        name = text_of(row.get("image"), f"{where}: `image`")
        identity = name if row.get("id") is None else key_of(row, "id", where)
        if identity in seen:
            raise UserError(f"{where}: id {identity!r} is in {seen[identity]} too", hint="give each row its own")
        seen[identity] = place if (place := where.rpartition(":")[2]).startswith("#") else f"line {place}"
        yield AnnotatedImage(
            id=identity,
            path=name,
            root=root,
            width=pixels_of(row.get("width"), f"{where}: `width`"),
            height=pixels_of(row.get("height"), f"{where}: `height`"),
            objects=tuple(
                _line_object(item, f"{where}: objects[{index}]")
                for index, item in enumerate(list_of(row.get("objects", []), f"{where}: `objects`"))
            ),
            captions=tuple(
                text_of(item, f"{where}: captions[{index}]")
                for index, item in enumerate(list_of(row.get("captions", []), f"{where}: `captions`"))
            ),
            regions=tuple(
                _line_region(item, f"{where}: regions[{index}]")
                for index, item in enumerate(list_of(row.get("regions", []), f"{where}: `regions`"))
            ),
        )


def _line_region(item: Any, where: str) -> Region:
    if isinstance(item, str):
        return Region(text_of(item, where))
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a phrase or an object with `phrase`, got {item!r}")
    bbox = item.get("bbox")
    return Region(text_of(item.get("phrase"), f"{where}: `phrase`"), None if bbox is None else box_of(bbox, where))


def _line_object(item: Any, where: str) -> AnnotatedObject:
    if isinstance(item, str):
        return AnnotatedObject(text_of(item, where))
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a name or an object with `name`, got {item!r}")
    attributes = item.get("attributes", {})
    if not isinstance(attributes, dict):
        raise UserError(f"{where}: `attributes` must be an object, got {attributes!r}")
    bbox = item.get("bbox")
    return AnnotatedObject(
        text_of(item.get("name"), f"{where}: `name`"), None if bbox is None else box_of(bbox, where), attributes
    )
