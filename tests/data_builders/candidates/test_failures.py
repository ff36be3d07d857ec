"""What can go wrong with photos, evidence and controls: each ends as a count, a reason, or one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.data.near_duplicates import difference_hash
from mmpo.data.photos import PhotoPrompt
from mmpo.data_builders import builders
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.candidates.responding import read_responses
from mmpo.data_builders.candidates.settings import CandidateSettings, CandidatesMade
from mmpo.data_builders.candidates.sorting import warnings_about
from mmpo.data_builders.candidates.tables import CandidateTables
from mmpo.errors import UserError
from mmpo.models.generation.answer import Answer
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.candidates import world

SILENT: dict[str, float | None] = dict.fromkeys(world.THINGS)


def made(
    talker: Path, photos: Path, folder: Path, *sources: Mapping[str, Mapping[str, float | None]], **changes: Any
) -> tuple[CandidatesMade, list[JudgedPicture]]:
    values = {"samples": 3, "log_probs": False, "drawn": 0, **changes}
    result = builders.build(world.settings(talker, photos, folder, *sources, **values), folder / "build")
    assert isinstance(result, CandidatesMade)
    return result, list(CandidateTables(folder / "build" / "candidates"))


def answer(text: str, truncated: bool = False) -> Answer:
    return Answer("0", text, (1, 2), truncated, 1.0)


def test_what_is_of_no_use_has_its_reason() -> None:
    texts = ["There is a cat.", "", "There is a cat.", "A nice picture.", "There is a c", "<image> a cat", "A dog. A c"]
    cut = {4, 6}
    answers = [answer(text, number in cut) for number, text in enumerate(texts)]
    words = ObjectVocabulary.from_names(["cat", "dog"])
    found = list(read_responses(answers, PhotoPrompt("Describe."), 0, words, {}))
    assert [one.why_not for one in found] == [
        "", "empty", "duplicate", "no_claim", "unfinished", "image_tag", "",
    ]  # fmt: skip
    assert found[6].truncated and [one.sample for one in found] == list(range(7))
    known = list(read_responses([answer("Red.")], PhotoPrompt("Which colour?", "red"), 0, words, {}))
    assert known[0].kept and known[0].answer == "red"  # a question with an answer needs no claim


def test_a_source_that_fails_on_a_photo_abstains_there(talker: Path, photos: Path, tmp_path: Path) -> None:
    """p0: one of two sources is silent, so nothing is sure. p1: both are, so the photo is out; the sums hold."""
    result, pictures = made(
        talker, photos, tmp_path, world.truth(p0=SILENT, p1=SILENT), world.truth(p1=SILENT), shard_size=64
    )
    by_path = {picture.image: picture for picture in pictures}
    assert {found.verdict for found in by_path["p0.png"].opinions.values()} == {"uncertain"}
    assert by_path["p0.png"].opinions["cat"].by["scripted"].why == "silent"
    assert by_path["p2.png"].opinions["cat"].verdict == "present"
    assert result.counts["photos"]["evidence: nothing_known"] == 1
    rejects = [json.loads(line) for line in (tmp_path / "build/candidates/rejects.jsonl").read_text().splitlines()]
    assert {"id": "p1.png", "stage": "evidence", "reason": "nothing_known", "detail": "silent"} in rejects
    for name, table in result.counts.items():
        assert table["in"] == sum(table.values()) - table["in"], name


def test_verdicts_do_not_depend_on_the_unit_or_the_order(talker: Path, photos: Path, tmp_path: Path) -> None:
    _, pictures = made(talker, photos, tmp_path / "a", shard_size=2)
    listed = Path(shutil.copytree(photos, tmp_path / "copy")) / "list.jsonl"
    names = [name for name in reversed(world.NAMES) if name != world.COPY]
    listed.write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    _, others = made(talker, listed, tmp_path / "b", shard_size=5)
    assert len(others) == len(pictures) == 8
    ours = {picture.key: picture for picture in pictures}
    for other in others:
        mine = ours[other.key]
        assert [(one.text, one.verdicts) for one in mine.candidates] == [
            (one.text, one.verdicts) for one in other.candidates
        ]


def test_test_photos_and_copies_of_them_are_not_learnt_from(talker: Path, photos: Path, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    world.picture(0).save(tests / "same.png")
    world.picture(2, (128, 96)).save(tests / "alike.png")
    hashes = tmp_path / "hashes.txt"
    hashes.write_text(difference_hash(world.picture(4)) + "\n")
    result, pictures = made(talker, photos, tmp_path, not_in=[str(tests), str(hashes)], samples=1)
    assert not {"p0.png", "p2.png", "p4.png"} & {picture.image for picture in pictures}
    rejects = [json.loads(line) for line in (tmp_path / "build/candidates/rejects.jsonl").read_text().splitlines()]
    told = {row["id"]: row["detail"] for row in rejects if row["reason"] == "benchmark"}
    assert told["p0.png"] == "tests/same.png: the same pixels" and "tests/alike.png" in told["p2.png"]
    assert told["p4.png"] == "hashes.txt: 0 of 256 bits differ"
    assert result.counts["photos"]["filter: benchmark"] == 3


def test_photos_called_like_a_benchmark_s_are_warned_of() -> None:
    (warning,) = warnings_about(["x/COCO_val2014_000000000042.jpg", "y.jpg"])
    assert warning.startswith("1 photos are called COCO_val2014_") and not warnings_about(["y.jpg"])


def test_controls_among_the_photos_are_refused_before_anything_runs(talker: Path, photos: Path, tmp_path: Path) -> None:
    controls = tmp_path / "controls"
    controls.mkdir()
    world.picture(7, (128, 96)).save(controls / "c.png")
    (controls / "a.jsonl").write_text(json.dumps({"image": "c.png", "objects": ["cat"]}) + "\n")
    with pytest.raises(UserError, match=r"p7\.png \(control c\.png: a near-duplicate"):
        made(talker, photos, tmp_path, controls={"annotations": str(controls / "a.jsonl")})
    assert not (tmp_path / "build" / "units").exists()
    made(talker, photos, tmp_path, samples=0)  # corrected, the same folder serves


def test_sources_are_calibrated_on_what_the_model_claims_of_controls(
    talker: Path, photos: Path, tmp_path: Path
) -> None:
    controls = tmp_path / "controls"
    rows = []
    for number in range(30, 50):
        controls.mkdir(exist_ok=True)
        world.picture(number).save(controls / f"c{number}.png")
        rows.append({"image": f"c{number}.png", "objects": ["cat", "cup"]})
    (controls / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = world.truth(p0={})["p0.png"]
    known = {**world.truth(), **{row["image"]: usual for row in rows}}
    result, _ = made(
        talker, photos, tmp_path, known, known, controls={"annotations": str(controls / "a.jsonl")}, samples=3
    )
    assert result.calibrated
    written = json.loads((tmp_path / "build" / "evidence" / "controls.json").read_text())
    assert written["sources"]["scripted"]["calibration"]["claims"] > 20
    card = json.loads((tmp_path / "build" / "candidates" / "card.json").read_text())
    assert card["evidence"]["sources"]["scripted"]["calibration"]["auroc"] > 0.7


def test_no_photo_of_use_is_one_line(talker: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture at all")
    with pytest.raises(UserError, match="no photo can be used"):
        made(talker, folder, tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no photos are there"):
        made(talker, tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize(
    "pairs, told",
    [
        ("best_wurst", "`maker` should be one of best_worst, "),
        ({"gap": 2}, "`maker` should be one of"),
        ({"maker": "best_worst", "gap": 0}, "pairs.gap"),
        ({"maker": "best_worst", "shape": 1}, "pairs.shape"),
        ({"maker": "edited", "guards": {"length": -1}}, "pairs.guards.length"),
        (7, "pairs"),
    ],
)
def test_a_wrong_maker_is_named(tmp_path: Path, pairs: Any, told: str) -> None:
    values = {
        "builder": "candidates", "model": "m", "images": "x", "evidence": [{"source": "self"}], "pairs": pairs,
    }  # fmt: skip
    with pytest.raises(ValidationError) as error:
        CandidateSettings.model_validate(values)
    assert told in str(error.value)
