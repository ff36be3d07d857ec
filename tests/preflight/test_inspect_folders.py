"""`mmpo inspect` understands what a run leaves and what a recipe names; where it does not, it names what it would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from tests.cli.conftest import Invoke


def test_a_run_and_what_is_in_it(mmpo: Invoke, recipe: Path, pairs: Path, tiny_llava_folder: Path) -> None:
    assert mmpo("run", recipe, "--out", "runs/a").exit_code == 0
    said = mmpo("inspect", "runs/a")
    assert said.exit_code == 0, said.output
    for words in ("run of: small", "train: complete, took", "eval: complete", "mmpo inspect runs/a/train/adapter"):
        assert words in said.stdout
    for place, words in {
        "runs/a/eval": "POPE", "runs/a/eval/scorecard.json": "POPE", "runs/a/eval/scorecard.md": "POPE",
        "runs/a/train/adapter": "rank: 16", tiny_llava_folder: "model type: llava", pairs: "pairs: 8",
    }.items():  # fmt: skip
        shown = mmpo("inspect", place)
        assert shown.exit_code == 0 and words in shown.stdout, (place, shown.output)
    assert json.loads(mmpo("inspect", "runs/a", "--json").stdout)["run of"] == "small"
    above = mmpo("inspect", "runs")
    assert above.exit_code == 2 and "mmpo inspect runs/a" in above.stderr and "empty_video" not in above.stderr


def test_photos(mmpo: Invoke, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    said = mmpo("inspect", "photos")
    assert said.exit_code == 0, said.output
    assert "pictures: 5" in said.stdout and "annotations.jsonl" in said.stdout and "cannot be opened: 1" in said.stdout
    assert "32 x 32" in mmpo("inspect", "photos/0.png").stdout
    assert "cannot be used" in mmpo("inspect", "photos/broken.jpg").stdout


def test_frames_stay_a_video_and_other_folders_say_what_would_do(mmpo: Invoke, here: Path) -> None:
    for number in range(3):
        (here / "clip").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(here / "clip" / f"{number}.png")
    assert "frames" in mmpo("inspect", "clip").stdout
    (here / "empty").mkdir()
    said = mmpo("inspect", "empty")
    assert said.exit_code == 2 and "run folders, scorecards, photos" in said.stderr
    shutil.copy(here / "clip" / "0.png", here / "x.xyz")
    assert "nothing here can show .xyz" in mmpo("inspect", "x.xyz").stderr
