"""A whole build with a real tiny model and scripted evidence: tables, counts, pairs, pictures, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpo.data.shards import read_pairs
from mmpo.data_builders import builders
from mmpo.data_builders.candidates.judging import judged_by
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.candidates.settings import CandidatesMade
from mmpo.data_builders.candidates.tables import CandidateTables
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings, PairsMade
from mmpo.errors import UserError
from mmpo.evidence.records import Opinion
from tests.data_builders.candidates import world
from tests.tiny import contents

BEST_WORST = {"maker": "best_worst", "recall_loss": 1.0, "guards": {"length": None, "recall": None}}


@pytest.fixture(scope="module")
def built(talker: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CandidatesMade]:
    folder = tmp_path_factory.mktemp("built")
    made = builders.build(world.settings(talker, photos, folder, pairs=BEST_WORST), folder / "build")
    assert isinstance(made, CandidatesMade)
    return folder / "build", made


def tables(folder: Path) -> list[JudgedPicture]:
    return list(CandidateTables(folder / "candidates"))


def test_every_photo_and_candidate_is_accounted_for(built: tuple[Path, CandidatesMade]) -> None:
    folder, result = built
    for name, table in result.counts.items():
        assert table["in"] == sum(table.values()) - table["in"], name
    photos = result.counts["photos"]
    assert (photos["in"], photos["used"]) == (10, 8)
    assert photos["decode: truncated"] == photos["filter: duplicate_of"] == 1
    rejects = [json.loads(line) for line in (folder / "candidates" / "rejects.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rejects] == [
        (world.CUT, "truncated"), (world.COPY, "duplicate_of"),
    ]  # fmt: skip
    assert rejects[1]["detail"] == world.ORIGINAL
    assert result.counts["candidates"]["in"] == 8 * 6 == result.candidates_made
    assert result.counts["candidates"]["duplicate"] > 0
    asked = result.counts["claims"]["in"] + result.counts["probes"]["in"]
    assert result.counts["evidence scripted"]["in"] == asked == result.claims


def test_candidates_have_what_the_model_said_and_the_evidence_found(
    built: tuple[Path, CandidatesMade], talker: Path, photos: Path
) -> None:
    pictures = tables(built[0])
    assert [one.image for one in pictures] == [n for n in world.NAMES if n not in (world.CUT, world.COPY)]
    said = {one.text for picture in pictures for one in picture.candidates}
    assert len(said & set(world.SAYS)) >= 2
    for picture in pictures:
        assert [one.sample for one in picture.candidates] == list(range(6))
        for one in picture.candidates:
            assert one.logp is not None and one.logp < 0 and one.logp_tokens == one.tokens
            assert one.absent <= {"dog", "horse"} and one.present <= {"cat", "cup"} and one.uncertain <= {"bird"}
    first = pictures[0].candidates[0]

    from mmpo.files.images import load_image
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.scoring.segment_logps import score_responses
    from tests.tiny import user

    image = load_image(photos / pictures[0].image)
    (alone,) = score_responses(load_vlm(str(talker)), user(world.DESCRIBE), [image], [first.text])
    assert first.logp == pytest.approx(alone, abs=1e-3)


def test_the_same_section_makes_the_pairs_that_training_finds(built: tuple[Path, CandidatesMade]) -> None:
    folder, result = built
    pairs = list(read_pairs(folder / "pairs"))
    assert result.pairs == "pairs" and result.made is not None and len(pairs) == result.made.pairs_made > 0
    for pair in pairs:
        assert pair.prompt_text == world.DESCRIBE
        assert not any(name in pair.chosen_text for name in ("dog", "horse"))
        assert any(name in pair.rejected_text for name in ("dog", "horse"))
        assert pair.scores is not None and pair.scores["chosen_absent"] == 0 < pair.scores["rejected_absent"]
        source = pair.provenance
        assert source["maker"] == "best_worst" and len(source["samples"]) == 2
        absent = [claim for claim in source["claims"] if claim["verdict"] == "absent"]
        said = {one["source"]: one["verdict"] for one in absent[0]["by"]}
        assert said.keys() == {"scripted", "scripted-2"} and said["scripted"] == "absent"
    used = {pair.provenance["source"] for pair in pairs}
    assert len(used) == result.images_used
    digests = (folder / "pairs" / "images.sha256").read_text().split()
    assert digests == sorted(picture.key for picture in tables(folder) if picture.image in used)


def test_the_page_shows_verdicts_with_their_evidence(built: tuple[Path, CandidatesMade]) -> None:
    folder = built[0] / "candidates"
    text = (folder / "README.md").read_text()
    for number in range(2):
        file = folder / "pictures" / f"{number:05d}.png"
        assert f"(pictures/{number:05d}.png)" in text
        with Image.open(file) as drawn:
            assert drawn.width == 640 and drawn.height > 480
            colors = {color for _, color in drawn.convert("RGB").getcolors(1 << 24) or []}
        assert {(0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)} <= colors  # a box of what is there, a line of what is not
    assert not (folder / "pictures" / "00002.png").exists()


def test_pairs_are_made_again_without_asking_anything(
    built: tuple[Path, CandidatesMade], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims and verdicts are reused: neither a model nor a source of evidence is opened."""
    from mmpo.data_builders.from_candidates import build as module
    from mmpo.evidence.evidence import Evidence

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be asked")

    monkeypatch.setattr(module, "open_answerer", refuse)
    monkeypatch.setattr(Evidence, "open", refuse)
    wanted = PairsFromCandidatesSettings.model_validate(
        {"builder": "pairs_from_candidates", "candidates": built[0] / "candidates", "pairs": BEST_WORST}
    )
    made = builders.build(wanted, tmp_path)
    assert isinstance(made, PairsMade) and built[1].made is not None
    assert (made.pairs_made, made.counts["pairs"]) == (built[1].made.pairs_made, built[1].made.counts["pairs"])
    ours, theirs = (list(read_pairs(folder / "pairs")) for folder in (tmp_path, built[0]))
    assert ours == theirs
    assert builders.build(wanted, tmp_path) == made  # finished: returned as it is
    other = wanted.model_copy(update={"seed": 3})
    with pytest.raises(UserError, match="another `seed`"):
        builders.build(other, tmp_path)


def test_some_of_the_sources_alone_can_be_believed(
    built: tuple[Path, CandidatesMade], talker: Path, photos: Path, tmp_path: Path
) -> None:
    pictures, settings = tables(built[0]), world.settings(talker, photos, built[0].parent)
    assert [judged_by(one, settings, ["scripted", "scripted-2"]) for one in pictures] == pictures
    for picture in pictures:
        by = {name: {**one.by, "scripted-2": Opinion("present", 1.0)} for name, one in picture.opinions.items()}
        torn = replace(picture, opinions={name: settings.combined(name, one) for name, one in by.items()})
        assert torn.names("uncertain") >= picture.names("absent")  # the two contradict each other
        yes, first = judged_by(torn, settings, ["scripted-2"]), judged_by(torn, settings, ["scripted"])
        assert yes.names("present") == set(picture.opinions) and not any(one.absent for one in yes.candidates)
        assert all(first.names(verdict) == picture.names(verdict) for verdict in ("present", "absent"))
        assert [one.chair_i for one in first.candidates] == [one.chair_i for one in picture.candidates]
        assert all(list(one.by) == ["scripted"] for one in first.opinions.values())

    values = {"builder": "pairs_from_candidates", "candidates": built[0] / "candidates", "pairs": BEST_WORST}
    builders.build(PairsFromCandidatesSettings.model_validate({**values, "sources": ["scripted-2"]}), tmp_path / "2")
    found = list(read_pairs(tmp_path / "2" / "pairs"))
    assert found and all(
        [own["source"] for own in one["by"]] == ["scripted-2"] for pair in found for one in pair.provenance["claims"]
    )
    with pytest.raises(UserError, match="sources: 'self' judged none of") as caught:
        builders.build(PairsFromCandidatesSettings.model_validate({**values, "sources": ["self"]}), tmp_path / "3")
    assert caught.value.hint == "there are: scripted, scripted-2"


def test_a_photo_that_changed_since_is_not_paired(
    built: tuple[Path, CandidatesMade], photos: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    used = sorted({pair.provenance["source"] for pair in read_pairs(built[0] / "pairs")})
    world.picture(99).save(moved / used[0])
    (moved / used[1]).unlink()
    values = {
        "builder": "pairs_from_candidates", "candidates": built[0] / "candidates", "pairs": BEST_WORST,
        "images": moved,
    }  # fmt: skip
    made = builders.build(PairsFromCandidatesSettings.model_validate(values), tmp_path / "pairs")
    table = made.model_dump()["counts"]["pictures"]
    assert table["decode: changed"] == table["decode: missing"] == 1
    assert {pair.provenance["source"] for pair in read_pairs(tmp_path / "pairs" / "pairs")} == set(used[2:])


def test_a_finished_build_is_returned_and_another_detector_refused(
    built: tuple[Path, CandidatesMade], talker: Path, photos: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(built[0].parent, tmp_path / "copy"))
    (folder / "build" / "source.json").write_text((built[0] / "source.json").read_text())
    same = world.settings(talker, photos, built[0].parent, pairs=BEST_WORST)
    assert builders.build(same, folder / "build") == built[1]
    (built[0].parent / "scripted-0.json").write_text(json.dumps(world.truth(p0={"cat": -1.0})))
    try:
        with pytest.raises(UserError, match="another `evidence scripted`"):
            builders.build(same, folder / "build")
    finally:
        (built[0].parent / "scripted-0.json").write_text(json.dumps(world.truth()))


@pytest.mark.parametrize("further", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    further: int,
    built: tuple[Path, CandidatesMade],
    talker: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed at every so manieth file: between units, before and after evidence, within the tables and the pairs."""
    from mmpo.files import atomic

    expected = contents(built[0])
    folder = tmp_path / "build"
    wanted = world.settings(talker, photos, built[0].parent, pairs=BEST_WORST)
    real, kills = atomic.write_bytes, 0

    class Killed(BaseException):
        pass

    left = [2]

    def dying(path: Path, data: bytes) -> Path:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(path, data)

    for module in (atomic, __import__("mmpo.data_builders.candidates.tables", fromlist=["x"]),
                   __import__("mmpo.data_builders.candidates.page", fromlist=["x"]),
                   __import__("mmpo.data.shards", fromlist=["x"])):  # fmt: skip
        monkeypatch.setattr(module, "write_bytes", dying)
    while True:
        try:
            result = builders.build(wanted, folder)
            break
        except Killed:
            kills += 1
            left[0] = 2 + kills // 4 + (0 if further == 1 else further)  # so that the longest step gets through
    assert kills >= 2 and result == built[1]
    found = contents(folder)
    assert {name for name in expected if not name.endswith("lock")} <= set(found)
    for name, data in expected.items():
        if "evidence" not in name and not name.endswith("lock"):
            assert found[name] == data, name


def test_builds_that_share_a_cache_ask_nothing_twice(
    talker: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the rounds of a run do: another model or seed, the same photos. What comes of it is as without the cache."""
    find = world.Scripted.find
    asked: list[tuple[str, str]] = []

    def counting(self: world.Scripted, pictures: Any, names: Any) -> Any:
        asked.extend((picture.path, name) for picture, own in zip(pictures, names, strict=True) for name in own)
        return find(self, pictures, names)

    monkeypatch.setattr(world.Scripted, "find", counting)
    alone: dict[str, Any] = {"pairs": None, "drawn": 0, "samples": 3}
    for seed in (0, 1000):
        given = world.settings(
            talker, photos, tmp_path, world.truth(), seed=seed, evidence_cache=str(tmp_path / "found"), **alone
        )
        builders.build(given, tmp_path / str(seed))
        assert len(asked) == len(set(asked)) and asked
    shared = list(asked)
    builders.build(world.settings(talker, photos, tmp_path, world.truth(), seed=1000, **alone), tmp_path / "alone")
    assert len(shared) < len(asked) and set(asked) == set(shared)
    for name in ("candidates", "claims"):
        one, other = (
            next((tmp_path / run / "candidates" / "data").glob(f"{name}-00000*")).read_bytes()
            for run in ("1000", "alone")
        )
        assert one == other
