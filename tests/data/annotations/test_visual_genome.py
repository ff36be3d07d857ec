"""Visual Genome's published files: boxes, attributes, phrases, paths; and what is malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedObject, Region
from mmpo.errors import UserError
from mmpo.outside import BLOCK, stream_list

URL = "https://example.org/rak248/VG_100K_2/{}.jpg"
OBJECTS = [
    {"object_id": 7, "x": 10, "y": 5, "w": 200, "h": 20, "names": ["cow", "calf"], "synsets": ["cow.n.01"]},
    {"object_id": 8, "x": 0, "y": 0, "w": 5, "h": 5, "names": ["barn"], "synsets": []},
]
REGIONS = [
    {"region_id": 1, "image_id": 1, "x": 1, "y": 2, "width": 30, "height": 20, "phrase": "a brown  cow\n"},
    {"region_id": 2, "image_id": 1, "x": 1, "y": 2, "width": 3, "height": 2, "phrase": "  "},
]


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "image_data.json"


def image_data(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"image_id": n, "url": URL.format(n), "width": 100, "height": 50, "coco_id": None, "flickr_id": n}
        for n in numbers
    ]


def test_the_published_files(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        image_data=image_data(1, 2),
        objects=[{"image_id": 1, "objects": OBJECTS, "image_url": URL.format(1)}],
        attributes=[{"image_id": 1, "attributes": [{**OBJECTS[0], "attributes": ["Brown", "big"]}]}],
        region_descriptions=[{"id": 1, "regions": REGIONS}],
    )
    first, second = read_annotations(path)
    assert (first.id, first.path, first.root) == ("1", "VG_100K_2/1.jpg", tmp_path)
    assert (first.width, first.height) == (100, 50)
    assert first.objects == (
        AnnotatedObject("cow", (10.0, 5.0, 90.0, 20.0), {"attributes": ["brown", "big"], "color": "brown"}),
        AnnotatedObject("barn", (0.0, 0.0, 5.0, 5.0)),
    )
    assert first.regions == (Region("a brown cow", (1.0, 2.0, 30.0, 20.0)),)
    assert second.objects == () and second.regions == ()


def test_one_file_of_whole_records(tmp_path: Path) -> None:
    record = {
        "image_id": "5",
        "image": image_data(5)[0],
        "objects": {"image_id": 5, "objects": OBJECTS[1:]},
        "regions": {"id": 5, "regions": REGIONS},
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps([record]))
    images = tmp_path / "pictures"
    images.mkdir()
    (image,) = read_annotations(path, images)
    assert (image.id, image.root, image.object_names) == ("5", images, ("barn",))
    assert [region.phrase for region in image.regions] == ["a brown cow"]


def test_shr_images(published_data: Path) -> None:
    images = list(read_annotations(published_data / "huofushuo_SID/eval_utils/shr/val_images_final.json"))
    assert len(images) == 200 and images[0].path == "VG_100K_2/2414737.jpg"
    assert sum(len(image.regions) for image in images) == 10_201
    assert sum(len(image.objects) for image in images) / 200 == pytest.approx(34.3, abs=0.05)
    assert images[0].regions[0].phrase == "Two cows in the meadow"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"image_data": image_data(1)}, "neither objects.json nor region_descriptions.json"),
        ({"image_data": image_data(1, 1), "objects": []}, "image 1 is listed twice"),
        (
            {"image_data": image_data(1), "objects": [{"image_id": n, "objects": []} for n in (1, "1")]},
            "record 1: image 1 is listed twice",
        ),
        ({"image_data": [image_data(1)[0] | {"image_id": None}], "objects": []}, "`image_id` must be"),
        ({"image_data": [image_data(1)[0] | {"url": ""}], "objects": []}, "`url` must be"),
        ({"image_data": [image_data(1)[0] | {"width": 0}], "objects": []}, "numbers of pixels"),
        ({"image_data": image_data(1), "objects": [{"image_id": 1}]}, "record 0: expected an object with `objects`"),
        ({"image_data": image_data(1), "objects": [{"image_id": 1, "objects": [{"names": []}]}]}, "`names` must"),
        (
            {"image_data": image_data(1), "objects": [{"image_id": 1, "objects": [OBJECTS[0] | {"x": None}]}]},
            "box needs four numbers",
        ),
    ],
)  # fmt: skip
def test_malformed(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(read_annotations(write(tmp_path, **files)))


def test_lists_are_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{"n": number, "text": "é" * 997} for number in range(3 * BLOCK // 1000)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    assert list(stream_list(path)) == rows
    path.write_text(path.read_text()[:-500])
    with pytest.raises(UserError, match="not valid JSON"):
        list(stream_list(path))
    path.write_text("[1, 23]")
    assert list(stream_list(path)) == [1, 23]


def test_rows_in_one_list_with_regions(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [{"image": "a.png", "regions": ["a dog", {"phrase": "a cat", "bbox": [0, 1, 2, 3]}]}, {"image": "b.png"}]
    path.write_text(json.dumps(rows))
    first, second = read_annotations(path)
    assert first.regions == (Region("a dog"), Region("a cat", (0.0, 1.0, 2.0, 3.0))) and second.id == "b.png"
    path.write_text(json.dumps([rows[0], rows[0]]))
    with pytest.raises(UserError, match=r"rows\.json:#2: id 'a\.png' is in #1 too"):
        list(read_annotations(path))
    path.write_text(json.dumps([{"image": "a.png", "regions": [3]}]))
    with pytest.raises(UserError, match="expected a phrase"):
        list(read_annotations(path))
