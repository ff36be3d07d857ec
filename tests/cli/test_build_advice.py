"""What a build says on screen about words: a COCO file's categories are known, and where they don't fit, what will."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mmpo.data.shards import read_pairs
from tests.cli.conftest import Invoke
from tests.data_builders.conftest import world
from tests.data_builders.parrot import DESCRIBE

__all__ = ["world"]


def recipe_for(here: Path, model: Path, world: Path, categories: list[str], name: str, **build: Any) -> Path:
    """Every picture shows the first category alone, once."""
    photos = [f"{number:03d}.png" for number in range(3, 9)]
    coco = {
        "images": [{"id": number, "file_name": photo} for number, photo in enumerate(photos)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
        "annotations": [{"id": n, "image_id": n, "category_id": 0, "bbox": [1, 1, 9, 9]} for n in range(len(photos))],
    }
    (here / f"{name}.json").write_text(json.dumps(coco))
    section = {
        "annotations": f"{name}.json", "images": str(world.parent), "prompts": [DESCRIBE], "samples_per_image": 0,
        "qa": None, "omission_share": 0.0,
    }  # fmt: skip
    file = here / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"model": str(model), "build": {**section, **build}}))
    return file


def test_categories_that_no_picture_shows_are_known(mmpo: Invoke, here: Path, parrot_folder: Path, world: Path) -> None:
    """The model says: a cat, a dog and two cups."""
    result = mmpo("build", recipe_for(here, parrot_folder, world, ["cat", "dog", "cup"], "some"), "--out", "out")
    assert result.exit_code == 0, result.output
    pairs = list(read_pairs(here / "out/build/pairs"))
    assert len(pairs) == 6 and {pair.chosen_text for pair in pairs} == {"There is a cat on the left."}
    assert [pair.provenance["removed"] for pair in pairs] == [["cup", "dog"]] * 6
    assert "warning" not in result.output


def test_a_vocabulary_that_does_not_fit_is_said_with_the_remedy(
    mmpo: Invoke, here: Path, parrot_folder: Path, world: Path
) -> None:
    result = mmpo("build", recipe_for(here, parrot_folder, world, ["widget", "gizmo"], "other"), "--out", "out")
    text = " ".join(result.output.split())
    assert result.exit_code == 2 and "the build made no pairs" in text
    assert "6 of 6 descriptions name no object of the 2 that the vocabulary knows (widget, gizmo" in text
    assert "set build.vocabulary to `coco` or to a file" in text
    file = recipe_for(here, parrot_folder, world, ["widget", "gizmo"], "again", vocabulary="coco")
    unknown = " ".join(mmpo("build", file, "--out", "again").output.split())
    assert "6 of 6 images have no annotated object of the 80 that the vocabulary knows" in unknown
    assert "leave build.vocabulary out" in unknown and "to `coco`" not in unknown
