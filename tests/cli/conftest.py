"""A command line in a folder of its own, and recipes on a tiny random model and a few drawn images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter

Invoke = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command under test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMPO_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def mmpo(here: Path) -> Invoke:
    """`mmpo("recipe", "list")` runs the command in this process; stdout and stderr are apart."""
    from mmpo.cli.app import load_commands

    app = load_commands()

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], prog_name="mmpo")

    return invoke


@pytest.fixture
def photos(here: Path) -> Path:
    """Four images with a dog or a cat, and `annotations.jsonl`."""
    folder = here / "photos"
    folder.mkdir()
    rows = []
    for number in range(4):
        image = Image.new("RGB", (32, 32), (40 * number, 90, 120))
        ImageDraw.Draw(image).ellipse((4 + number, 4, 20 + number, 20), fill=(200, 30 * number, 0))
        image.save(folder / f"{number}.png")
        rows.append(
            {"image": f"{number}.png", "objects": ["dog", "chair"] if number % 2 else ["cat", "table", "chair"]}
        )
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def pairs(photos: Path) -> Path:
    """A folder of eight preference pairs about these images."""
    folder = photos.parent / "pairs"
    with PairWriter(folder, recipe={"test": 1}) as writer:
        for number in range(8):
            writer.add(
                PreferencePair.simple(
                    id=f"pair-{number}",
                    image=(photos / f"{number % 4}.png").read_bytes(),
                    question="What is in the image?",
                    chosen="There is a dog." if number % 2 else "There is a cat.",
                    rejected=f"There are {number} dogs and a cat.",
                )
            )
    return folder


@pytest.fixture
def recipe(photos: Path, pairs: Path, tiny_llava_folder: Path) -> Path:
    """A recipe that trains two steps on the pairs and evaluates on the images, in seconds."""
    file = photos.parent / "small.yaml"
    file.write_text(
        f"""\
model: {tiny_llava_folder}
train:
  pairs: {pairs}
  max_steps: 2
  batch_size: 2
  eval_fraction: 0.25
  samples: {{n: 0}}
eval:
  images: {photos}
  annotations: {photos}/annotations.jsonl
  benchmarks: [pope]
  pope: {{splits: [random], questions_per_image: 2, max_new_tokens: 2}}
  bootstrap: {{samples: 100}}
"""
    )
    return file
