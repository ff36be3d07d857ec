"""The demo world as files: splits that share no scene, with exact annotation, vocabulary and COCO's format beside
mmpo's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmpo.demo.drawing import SIZE
from mmpo.demo.language import EXACT, describe
from mmpo.demo.scene import Scene, SceneKind, sample_scene
from mmpo.demo.things import THINGS, VOCABULARY
from mmpo.errors import UserError
from mmpo.files.atomic import write_bytes, write_json, write_text
from mmpo.files.images import encode_image
from mmpo.progress import track

# The first number seeds the split, so no two splits (nor the model's own training scenes) draw the same scene.
SPLITS: dict[str, tuple[int, SceneKind]] = {
    "train": (101, "usual"),
    "dev": (102, "usual"),
    "test": (103, "usual"),
    "test_unusual": (104, "unusual"),
}


def world_split(split: str, n: int, seed: int = 0) -> Iterator[Scene]:
    """The first `n` scenes of a split; `seed` picks another world with the same rules."""
    if split not in SPLITS:
        raise UserError(f"the demo world has no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    number, kind = SPLITS[split]
    for index in range(n):
        yield sample_scene((seed, number, index), kind)


def annotation(scene: Scene, image: str, rng: np.random.Generator) -> dict[str, object]:
    """The scene as a row of mmpo's annotation lines: every item with its box and attributes, and one exact caption."""
    objects = [
        {
            "name": item.thing,
            "bbox": list(item.box),
            "attributes": {"side": item.side, **({"color": item.color} if item.color else {})},
        }
        for item in scene.items
    ]
    return {
        "id": Path(image).stem,
        "image": image,
        "width": SIZE,
        "height": SIZE,
        "objects": objects,
        "captions": [describe(scene, rng, EXACT).answer],
        "place": scene.place,
    }


def write_split(folder: str | Path, split: str, n: int, seed: int = 0) -> Path:
    """Write `n` scenes of `split` into `folder` and return it.

    It holds `images/*.png`, `annotations.jsonl`, the same objects as `instances.json` (COCO's format) and
    `vocabulary.json` (class -> synonyms).
    """
    out = Path(folder)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, scene in track(enumerate(world_split(split, n, seed)), f"draw {split}", n):
        name = f"images/{split}_{index:05d}.png"
        write_bytes(out / name, encode_image(scene.draw()))
        rows.append(annotation(scene, name, np.random.default_rng((*scene.seed, 5))))
    write_json(out / "vocabulary.json", VOCABULARY)
    write_json(out / "instances.json", _coco(rows))
    write_text(out / "annotations.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return out


def _coco(rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows as a COCO instances file."""
    categories = {thing: number for number, thing in enumerate(THINGS, start=1)}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, row in enumerate(rows, start=1):
        images.append({"id": image_id, "file_name": row["image"], "width": row["width"], "height": row["height"]})
        for item in row["objects"]:  # type: ignore[attr-defined]
            width, height = item["bbox"][2:]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[item["name"]],
                    "bbox": item["bbox"],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    named = [{"id": number, "name": thing} for thing, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}
