"""An evaluation on pictures that the pairs hold says so, on screen and in the scorecard, whatever the files' names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from PIL import Image

from mmpo.data.image_digests import FILE
from tests.cli.conftest import Invoke
from tests.data_builders.conftest import world
from tests.data_builders.parrot import DESCRIBE

__all__ = ["world"]


def other_photos(photos: Path, folder: Path, shared: int) -> Path:
    """Pictures of another folder, under other names and in another file form, `shared` of them the same."""
    folder.mkdir()
    rows = [json.loads(line) for line in (photos / "annotations.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        picture = Image.open(photos / row["image"]).convert("RGB")
        if number >= shared:
            picture.putpixel((0, 0), (9, 9, 9))
        row["image"] = f"IMG_{7 - number}.bmp"
        picture.save(folder / row["image"])
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_with(recipe: Path, folder: Path) -> Path:
    data = yaml.safe_load(recipe.read_text())
    del data["eval"]["images"]
    data["eval"]["annotations"] = str(folder / "annotations.jsonl")
    file = recipe.with_name(f"{folder.name}.yaml")
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def warned(result: object, folder: Path, shared: int) -> None:
    text = " ".join(result.output.split())  # type: ignore[attr-defined]
    said = f"SHARED IMAGES: {shared} of the 4 images asked about"
    card = json.loads((folder / "eval/scorecard.json").read_text())
    assert card["overlap"] == {"images": 4, "shared": shared}
    assert (said in text) is (said in (folder / "eval/scorecard.md").read_text()) is bool(shared)
    assert any(said in warning for warning in card["warnings"]) is bool(shared)


def test_in_one_recipe_and_later_on_the_adapter(
    mmpo: Invoke, recipe: Path, photos: Path, pairs: Path, here: Path
) -> None:
    some = recipe_with(recipe, other_photos(photos, here / "some", 3))
    result = mmpo("run", some, "--out", "out")
    assert result.exit_code == 0, result.output
    warned(result, here / "out", 3)
    shutil.rmtree(pairs)
    shutil.move(here / "out/train/adapter", here / "adapter")
    none = recipe_with(recipe, other_photos(photos, here / "none", 0))
    for file, shared in ((some, 3), (none, 0)):
        out = here / f"later-{shared}"
        later = mmpo("eval", file, "--out", out, "--set", "eval.adapter=adapter")
        assert later.exit_code == 0, later.output
        warned(later, out, shared)
    (here / "adapter" / FILE).unlink()  # an adapter of other hands: nothing is known, and nothing is said
    unknown = mmpo("eval", some, "--out", here / "unknown", "--set", "eval.adapter=adapter")
    assert unknown.exit_code == 0 and "SHARED" not in unknown.output
    assert json.loads((here / "unknown/eval/scorecard.json").read_text())["overlap"] is None


def test_pictures_learnt_beside_the_pairs_count_too(mmpo: Invoke, recipe: Path, photos: Path, here: Path) -> None:
    """Films of `auxiliary.data` are training pictures like those of the pairs."""
    folder = here / "unedited"
    folder.mkdir()
    rows = []
    for number, shade in enumerate((3, 60, 200)):
        Image.new("RGB", (32, 32), (shade, 1, 2)).save(folder / f"{number}.png")
        talk = [{"from": "human", "value": "<image>\nReport?"}, {"from": "gpt", "value": "The heart is normal."}]
        rows.append({"id": f"u{number}", "image": f"{number}.png", "conversations": talk})
    (folder / "rows.json").write_text(json.dumps(rows))
    asked = other_photos(photos, here / "asked", 0)  # none of the pairs' pictures
    for number in range(2):  # and two of those learnt beside them
        Image.open(folder / f"{number}.png").save(asked / f"IMG_{7 - number}.bmp")
    data = yaml.safe_load(recipe_with(recipe, asked).read_text())
    data["train"]["auxiliary"] = {"data": str(folder / "rows.json"), "per_pair": "once"}
    data["train"]["objective"] = {"dpo": {"beta": 0.1}, "auxiliary": {"weight": 0.5}}
    file = here / "beside.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    result = mmpo("run", file, "--out", "out")
    assert result.exit_code == 0, result.output
    warned(result, here / "out", 2)


def test_a_build_beside_the_evaluation(
    mmpo: Invoke, recipe: Path, parrot_folder: Path, world: Path, here: Path
) -> None:
    rows = [json.loads(line) for line in world.read_text().splitlines()][3:7]
    (here / "world").mkdir()
    for row in rows:
        shutil.copy(world.parent / row["image"], here / "world")
    rows = [{**row, "objects": ["dog", "ball"] if n % 2 else ["cat", "cup"]} for n, row in enumerate(rows)]
    (here / "world/annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = recipe_with(recipe, other_photos(here / "world", here / "some", 2))
    data = yaml.safe_load(file.read_text())
    data = {
        "model": str(parrot_folder),
        "build": {"annotations": str(world), "prompts": [DESCRIBE]},
        "eval": data["eval"],
    }
    file.write_text(yaml.safe_dump(data))
    result = mmpo("run", file, "--out", "out")
    assert result.exit_code == 0, result.output
    warned(result, here / "out", 2)
    assert mmpo("run", file, "--out", "out").exit_code == 0
