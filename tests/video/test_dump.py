from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpo.errors import UserError
from mmpo.video.dump import dump_frames
from mmpo.video.read import read_frames
from tests.video.clips import number_of


def test_a_dump_holds_the_frames_of_its_manifest(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    manifest = dump_frames(clip, folder, fps=5, width=None, digits=4)
    assert manifest["frames"] == list(range(0, 60, 6)) and len(manifest["times"]) == 10
    for place, number in enumerate(manifest["frames"], start=1):
        assert number_of(np.asarray(Image.open(folder / f"c01_{place:04d}.jpeg"))) == number
    assert abs(len(manifest["frames"]) - round(manifest["video"]["duration"] * 5)) <= 1
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert dump_frames(clip, folder, fps=5, width=None, digits=4) == manifest
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="something else"):
        dump_frames(clip, folder, fps=2, width=None)
    assert len(dump_frames(clip, folder, fps=2, width=48, overwrite=True)["frames"]) == 4
    assert not list(tmp_path.glob(".*"))
    reread = read_frames(folder, indices=range(4))
    assert reread.array.shape == (4, 32, 48, 3)
