"""Visual Genome's annotations as published: objects with boxes and attributes, and phrases about regions.

    FOLDER/image_data.json            image_id, url, width, height of each image
    FOLDER/objects.json               names and boxes          (optional, but it or the regions must be there)
    FOLDER/attributes.json            attributes of objects    (optional)
    FOLDER/region_descriptions.json   phrases with boxes       (optional)

Also read: one file of whole records, `[{"image_id", "image": {…}, "objects": {…}, "regions": {…}}, …]`, as SHR's
evaluation images are published (HA-DPO, Zhao et al. 2023, arXiv:2311.16839). An image lies at the last two parts of its
`url` below the images folder (`VG_100K_2/2414737.jpg`), which is HA-DPO's rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, BoxXYWH, Region
from mmpo.data.spans import is_number
from mmpo.errors import UserError
from mmpo.outside import names_its_file, stream_list

COLORS = frozenset(
    ["red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray", "grey"]
)
"""The attributes that are kept as an object's `color`."""


def is_visual_genome(record: Any) -> bool:
    """Is this the first record of `image_data.json`, or of a file of whole records?"""
    if not isinstance(record, Mapping):
        return False
    return {"image_id", "url"} <= record.keys() or isinstance(record.get("image"), Mapping)


@names_its_file("Visual Genome's annotations")
def read_visual_genome(path: str | Path, images: str | Path | None = None) -> Iterator[AnnotatedImage]:
    """The images of `path` (image_data.json or a file of whole records), in its order.

    `images` is the folder that holds `VG_100K` and `VG_100K_2`; the annotation file's own by default. Objects keep
    their first name; boxes are cut to the picture, as some published ones stick out of it. Raises UserError naming
    file and record for anything malformed.
    """
    path = Path(path)
    root = Path(images) if images is not None else path.parent
    records = stream_list(path)
    first = next(records, None)
    if first is None:
        return
    whole = not isinstance(first, dict) or "url" not in first
    beside = {} if whole else _beside(path)
    seen: set[str] = set()
    for number, record in enumerate(_again(first, records)):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected an object, got {record!r}")
        data = record.get("image", {}) if whole else record
        key = _id(data.get("image_id", record.get("image_id")), where)
        if key in seen:
            raise UserError(f"{where}: image {key} is listed twice")
        seen.add(key)
        parts = record if whole else beside.get(key, {})
        yield _image(data, key, parts, root, where)


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _beside(path: Path) -> dict[str, dict[str, Any]]:
    """The records of the files beside `image_data.json`, by image id and kind of record."""
    found: dict[str, dict[str, Any]] = {}
    names = {"objects": "objects.json", "attributes": "attributes.json", "regions": "region_descriptions.json"}
    files = {kind: path.with_name(name) for kind, name in names.items() if path.with_name(name).is_file()}
    if not files.keys() & {"objects", "regions"}:
        raise UserError(
            f"{path.parent}: neither objects.json nor region_descriptions.json is there",
            hint="Visual Genome's files belong in one folder",
        )
    for kind, file in files.items():
        for number, record in enumerate(stream_list(file)):
            if not isinstance(record, dict) or kind not in record:
                raise UserError(f"{file}: record {number}: expected an object with `{kind}`")
            key = _id(record.get("image_id", record.get("id")), f"{file}: record {number}")
            if kind in found.setdefault(key, {}):
                raise UserError(f"{file}: record {number}: image {key} is listed twice")
            found[key][kind] = record
    return found


def _id(value: Any, where: str) -> str:
    """An image's id as text: `1` and `"1"` are the same."""
    if not (is_number(value) or (isinstance(value, str) and value.strip())):
        raise UserError(f"{where}: `image_id` must be a number or a string, got {value!r}")
    return str(value)


def _image(data: Mapping[str, Any], key: str, parts: Mapping[str, Any], root: Path, where: str) -> AnnotatedImage:
    url = data.get("url")
    if not isinstance(url, str) or not url:
        raise UserError(f"{where}: `url` must be a non-empty string, got {url!r}")
    size = tuple(data.get(side) for side in ("width", "height"))
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        raise UserError(f"{where}: `width` and `height` must be numbers of pixels, got {size!r}")
    width, height = int(size[0] or 0), int(size[1] or 0)
    attributes = {
        item.get("object_id"): item.get("attributes") or []
        for item in _items(parts.get("attributes"), "attributes", where)
    }
    objects = []
    for number, item in enumerate(_items(parts.get("objects"), "objects", where)):
        at = f"{where}: objects[{number}]"
        names = item.get("names") or [item.get("name")]  # the first edition has one `name`
        if not isinstance(names, list) or not isinstance(names[0], str) or not names[0].strip():
            raise UserError(f"{at}: `names` must be a list of names, got {names!r}")
        box = _box([item.get(side) for side in ("x", "y", "w", "h")], width, height, at)
        objects.append(AnnotatedObject(names[0].strip(), box, _attributes(attributes.get(item.get("object_id"), []))))
    regions = []
    for number, item in enumerate(_items(parts.get("regions"), "regions", where)):
        at = f"{where}: regions[{number}]"
        phrase = item.get("phrase")
        if isinstance(phrase, str) and phrase.strip():  # HA-DPO's reader leaves out empty phrases as well
            box = _box([item.get(side) for side in ("x", "y", "width", "height")], width, height, at)
            regions.append(Region(" ".join(phrase.split()), box))
    return AnnotatedImage(
        key, "/".join(url.split("/")[-2:]), root, width, height, tuple(objects), (), regions=tuple(regions)
    )


def _items(record: Any, kind: str, where: str) -> list[dict[str, Any]]:
    if record is None:
        return []
    items = record.get(kind) if isinstance(record, Mapping) else record
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{where}: `{kind}` must be a list of objects")
    return items


def _attributes(words: Any) -> dict[str, Any]:
    known = [word.strip().lower() for word in words if isinstance(word, str) and word.strip()]
    colors = [word for word in known if word in COLORS]
    if not known:
        return {}
    return {"attributes": known} | ({"color": colors[0]} if len(set(colors)) == 1 else {})


def _box(values: list[Any], width: int, height: int, where: str) -> BoxXYWH:
    if not all(map(is_number, values)):
        raise UserError(f"{where}: a box needs four numbers, got {values!r}")
    x, y, wide, high = map(float, values)
    left, top = min(max(x, 0.0), width), min(max(y, 0.0), height)
    right, bottom = min(max(x + wide, left), width), min(max(y + high, top), height)
    return left, top, right - left, bottom - top
