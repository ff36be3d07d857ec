"""Commands without a recipe look before they work, too: all mistakes at once, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from mmpo.packages import Package
from tests.cli.conftest import Invoke

Usage = namedtuple("Usage", "total used free")


def refused(mmpo: Invoke, *words: object) -> str:
    result = mmpo(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and "please report" not in result.output
    return str(result.stderr)


@pytest.fixture
def rows(here: Path) -> Path:
    """Forty rows of preferences about pictures in `pictures/`."""
    from PIL import Image

    (here / "pictures").mkdir()
    found = []
    for number in range(40):
        name = f"pictures/{number}.png"
        Image.new("RGB", (16, 16), (number, 0, 0)).save(here / name)
        found.append({"prompt": "<image>What?", "images": [name], "chosen": "A.", "rejected": "B."})
    file = here / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def little_room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 10**12 - free, free))


def test_convert_tells_every_mistake_at_once(mmpo: Invoke, rows: Path, here: Path) -> None:
    said = refused(mmpo, "convert", "row.jsonl", "out", "--to", "trll", "--images", "nowhere", "--from", "xyz")
    for words in (
        "4 mistakes", "no format 'trll' to write", "no format 'xyz' to read", "did you mean rows.jsonl?",
        "--images: nowhere: no such folder",
    ):  # fmt: skip
        assert words in said, words
    assert not (here / "out").exists()
    assert "can't hold images by 'embed'" in refused(
        mmpo, "convert", rows, "out", "--to", "ms-swift", "--media", "embed"
    )
    assert "no such option" in refused(mmpo, "convert", rows, "out", "--from", "trl", "--set", "x=1")
    (here / "file").write_text("x")
    assert "is a file" in refused(mmpo, "convert", rows, "file/out")


def test_only_the_rows_that_are_read_need_room(mmpo: Invoke, rows: Path, here: Path) -> None:
    """Another split, or annotations beside the rows, may be larger than the disk."""
    folder = here / "set"
    folder.mkdir()
    rows.rename(folder / "train.jsonl")
    with (folder / "test.jsonl").open("wb") as file:
        file.truncate(1 << 43)  # a sparse file of 8 TB
    done = mmpo("convert", folder, "out", "--images", here)
    assert done.exit_code == 0 and "40 kept" in done.stdout, done.output


def test_convert_looks_at_the_first_pictures(mmpo: Invoke, rows: Path, here: Path) -> None:
    for number in range(3):
        (here / f"pictures/{number}.png").unlink()
    some = mmpo("convert", rows, "some")
    assert some.exit_code == 0 and "37 kept" in some.stdout
    assert "3 of the 20 pictures of the first rows can't be opened; the first is pictures/0.png" in some.stderr
    shutil.rmtree(here / "pictures")
    said = refused(mmpo, "convert", rows, "none")
    assert "none of the 20 pictures of its first rows can be opened; the first is pictures/0.png" in said
    assert "--images DIR" in said and not (here / "none").exists()


def test_links_out_of_the_folder_of_images(mmpo: Invoke, rows: Path, here: Path) -> None:
    shutil.move(here / "pictures", here.parent / "blobs")
    (here / "pictures").mkdir()
    for file in (here.parent / "blobs").iterdir():
        (here / "pictures" / file.name).symlink_to(file)
    said = refused(mmpo, "convert", rows, "out")
    assert "is a link out of" in said and "--allow-links" in said
    done = mmpo("convert", rows, "out", "--allow-links", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["kept"] == 40
    few = here / "few.jsonl"  # the conversion itself says it, where the rows are few
    few.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    assert mmpo("convert", few, "few").exit_code == 2
    assert "allow_links: true (--allow-links)" in (here / "few/rejects.jsonl").read_text()


def test_convert_wants_room(mmpo: Invoke, rows: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_room(monkeypatch, 100)
    assert "free, and OUT needs about" in refused(mmpo, "convert", rows, "out") and not (here / "out").exists()
    little_room(monkeypatch, 5000)
    done = mmpo("convert", rows, "out")
    assert done.exit_code == 0 and "warning: the disk of" in done.stderr


@pytest.fixture
def trained(mmpo: Invoke, recipe: Path, here: Path) -> Path:
    done = mmpo("train", recipe, "--out", "runs/a")
    assert done.exit_code == 0, done.output
    return here / "runs/a"


def test_export(mmpo: Invoke, trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpo.demo import model_path

    (here / "used").mkdir()
    (here / "used/x").write_text("x")
    said = refused(mmpo, "export", "photos", "used")
    assert "2 mistakes" in said and "used is in use" in said and "no finished training" in said
    with monkeypatch.context() as patch:
        little_room(patch, 100)
        assert "free, and OUT needs about" in refused(mmpo, "export", trained, "out")

    def on(model: object) -> None:
        file = trained / "train/settings.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model": str(model)}))

    on("gone/model")
    assert mmpo("export", trained, "adapter").exit_code == 0, "the adapter alone needs no model"
    assert "gone/model: no such" in refused(mmpo, "export", trained, "out", "--merge")
    on(model_path())
    assert "trained on another model" in refused(mmpo, "export", trained, "out", "--merge")
    (trained / "train/adapter/adapter_model.safetensors").write_bytes(b"x" * 40)
    assert "damaged" in refused(mmpo, "export", trained, "out")
    assert not (here / "out").exists()


def test_eval_score(mmpo: Invoke, here: Path) -> None:
    (here / "empty.json").write_text("")
    words: tuple[Any, ...] = ("eval", "score", "pope", "--answers", "empty.json", "--questions", "gone.json")
    said = refused(mmpo, *words, "--parser", "x", "--judge", "backend=server", "--judge", "model=m", "--judge",
                   "base_url=http://127.0.0.1:1/v1", "--judge", "api_key_env=NO_KEY_HERE")  # fmt: skip
    for told in (
        "4 mistakes", "--answers: empty.json: the file is empty", "--questions: gone.json: no such file",
        "pope has no parser 'x'", "--judge api_key_env: the environment variable NO_KEY_HERE is not set",
    ):  # fmt: skip
        assert told in said, told
    assert not list(here.glob("judge-replies*"))


def test_packages_are_looked_for_before_work(mmpo: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a.jsonl").write_text('{"id": "1", "text": "Heart is normal."}\n')
    words = ("eval", "score", "radiology", "--answers", "a.jsonl")
    assert "radiology with radgraph needs the package radgraph" in refused(
        mmpo, *words, "--set", "radgraph=radgraph-xl"
    )
    monkeypatch.setattr(Package, "here", property(lambda self: self.module != "sacrebleu"))
    assert "needs the package sacrebleu" in refused(mmpo, *words, "--questions", "a.jsonl")
    assert mmpo(*words).exit_code == 0, "without references no text metric is asked for"


def test_a_processor_that_cannot_open_is_told_before_the_build(
    mmpo: Invoke, recipe: Path, tiny_llava_folder: Path, here: Path
) -> None:
    model = Path(shutil.copytree(tiny_llava_folder, here / "model"))
    config = json.loads((model / "processor_config.json").read_text())
    config["processor_class"] = "Qwen2_5_VLProcessor"
    config["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
    (model / "processor_config.json").write_text(json.dumps(config))
    said = refused(mmpo, "train", recipe, "--out", "out", "--set", f"model={model}")
    assert "model: can't be loaded" in said and not (here / "out").exists()
