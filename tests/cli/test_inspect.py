from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from tests.video.clips import number_of, write

runner = CliRunner()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("inspect") / "clip.mp4", rotation=90)


def run(*words: object) -> str:
    result = runner.invoke(load_commands(), ["inspect", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_says_what_the_video_holds(clip: Path) -> None:
    shown = run(clip)
    assert "64 x 96" in shown and "60, 5 of them key frames" in shown and "stored at 90 degrees" in shown


def test_json_and_frames(clip: Path, tmp_path: Path) -> None:
    data = json.loads(run(clip, "--json", "--frames", "0,10,-1", "--out", tmp_path / "frames"))
    assert data["n_frames"] == 60 and data["rotation"] == 90
    assert [row["index"] for row in data["frames"]] == [0, 10, 59]
    assert data["frames"][1]["time"] == pytest.approx(1 / 3, abs=1e-3)
    stored = json.loads((tmp_path / "frames" / "frames.json").read_text())
    for row in stored:
        upright = np.asarray(Image.open(row["file"]))
        assert number_of(np.rot90(upright, k=-1)) == row["index"]


def test_mistakes_are_one_line(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "notes.txt").write_text("x")
    for words, says in (
        ((tmp_path / "none.mp4",), "no such file"),
        ((tmp_path / "page.mp4",), "an HTML page"),
        ((tmp_path / "notes.txt",), "nothing here can show .txt"),
        ((clip, "--frames", "0"), "belong together"),
        ((clip, "--frames", "a,b", "--out", tmp_path), "expected frame numbers"),
        ((clip, "--frames", "99", "--out", tmp_path), "frames 0 to 59"),
    ):
        result = runner.invoke(load_commands(), ["inspect", *map(str, words)])
        assert result.exit_code == 2 and says in result.stderr, words
