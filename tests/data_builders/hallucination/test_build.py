"""A whole build with a real (tiny, memorizing) model: pairs, counts, quarantine, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.data.annotations.read import read_annotations
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import read_pairs
from mmpo.data_builders.hallucination.build import build, read_vocabulary
from mmpo.data_builders.hallucination.detect import Detector, hallucinated
from mmpo.data_builders.hallucination.drafts import whole_sentences
from mmpo.data_builders.hallucination.settings import BuildResult, BuildSettings
from mmpo.data_builders.units import count_table
from mmpo.errors import UserError
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.parrot import CAPTION, DESCRIBE, SCENES


def settings(model: Path, world: Path, **changes: Any) -> BuildSettings:
    values: dict[str, Any] = {
        "model": str(model),
        "annotations": world,
        "prompts": [DESCRIBE],
        "correct": ["object"],
        "qa": {"questions_per_image": 4},
        "max_new_tokens": 64,
        "shard_size": 5,
    }
    return BuildSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def built(parrot_folder: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildResult]:
    folder = tmp_path_factory.mktemp("built")
    return folder, build(settings(parrot_folder, world, variants=2), folder)


def pairs_of(folder: Path, kind: str) -> list[PreferencePair]:
    return [pair for pair in read_pairs(folder / "pairs") if pair.provenance["kind"] == kind]


def test_every_image_is_accounted_for(built: tuple[Path, BuildResult]) -> None:
    folder, result = built
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    assert result.counts["images"]["in"] == 12
    assert result.counts["images"]["decode: truncated"] == 1
    assert result.counts["images"]["annotation: no_objects"] == 1
    rejects = [json.loads(line) for line in (folder / "pairs" / "rejects.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejects[:2]] == ["i1", "i2"]
    pairs = list(read_pairs(folder / "pairs"))
    assert len(pairs) == result.description_pairs + result.omission_pairs + result.question_pairs
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert len({pair.provenance["source"] for pair in pairs}) == result.images_used
    card = json.loads((folder / "pairs" / "card.json").read_text())
    assert card["splits"]["train"]["pairs"] == len(pairs)
    assert count_table(result.counts) in card["notes"]
    assert "| descriptions | nothing_hallucinated |" in count_table(result.counts)


def test_description_pairs_differ_in_truth_alone(built: tuple[Path, BuildResult], world: Path) -> None:
    folder, _ = built
    images = {image.id: image for image in read_annotations(world)}
    detector = Detector(ObjectVocabulary.from_names(sorted({name for scene in SCENES for name in scene})))
    pairs = pairs_of(folder, "description")
    assert {pair.provenance["variant"] for pair in pairs} == {0, 1}
    greedy = Counter(pair.rejected_text for pair in pairs if pair.id.endswith("/d0v0"))
    assert greedy == {CAPTION: sum(greedy.values())}
    for pair in pairs:
        truth = detector.truth(images[pair.provenance["source"]])
        assert not hallucinated(detector.check(pair.chosen_text, truth))
        assert hallucinated(detector.check(pair.rejected_text, truth))
        assert pair.chosen_text.split(" cat ")[0].split()[:2] == pair.rejected_text.split(" cat ")[0].split()[:2]
        assert pair.prompt_text == DESCRIBE
        assert any(verdict["verdict"] == "hallucination" for verdict in pair.provenance["verdicts"])
    first = next(pair for pair in pairs if pair.id == "i0/d0v0")
    assert first.chosen_text == "There is a cat on the left and two cups on the right."
    assert first.provenance["removed"] == ["dog"]
    swapped = next(pair for pair in pairs if pair.id == "i5/d0v0")
    assert swapped.provenance["added"] == ["horse"]
    assert "a horse in the middle" in swapped.chosen_text


def test_every_kind_of_claim_is_put_right_unless_less_is_wanted(
    parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    """The model says the same of every picture: a cat on the left, a dog in the middle, two cups on the right."""
    result = build(settings(parrot_folder, world, correct=list(KINDS), changed_weight=5.0), tmp_path)
    images = {image.id: image for image in read_annotations(world)}
    detector = Detector(ObjectVocabulary.from_names(sorted({name for scene in SCENES for name in scene})), KINDS)
    pairs = pairs_of(tmp_path, "description")
    kinds: Counter[str] = Counter()
    for pair in pairs:
        truth = detector.truth(images[pair.provenance["source"]])
        assert not hallucinated(detector.check(pair.chosen_text, truth))
        wrong = {finding.kind for finding in hallucinated(detector.check(pair.rejected_text, truth))}
        assert wrong and (pair.rejected_weights or pair.chosen_weights)
        kinds.update(wrong)
    assert pairs_of(tmp_path, "description")[0].rejected_text == CAPTION
    assert {kind: count for kind, count in result.corrected.items() if count} == dict(kinds)
    assert set(kinds) == {"object", "count", "place"}
    claims = result.counts["claims"]
    assert claims["in"] == sum(claims.values()) - claims["in"] and claims["place: wrong"] > 0 < claims["object: right"]
    first = next(pair for pair in pairs if pair.id == "i0/d0v0")
    assert first.chosen_text.startswith("There is a cat on the left and a cup ")
    notes = json.loads((tmp_path / "pairs" / "card.json").read_text())["notes"]
    assert f"count {result.corrected['count']}, " in notes and "| claims | count: wrong |" in notes


def test_omission_pairs_prefer_the_description_that_leaves_nothing_out(
    built: tuple[Path, BuildResult], world: Path
) -> None:
    folder, result = built
    images = {image.id: image for image in read_annotations(world)}
    vocabulary = ObjectVocabulary.from_names(sorted({name for scene in SCENES for name in scene}))
    detector = Detector(vocabulary)
    pairs = pairs_of(folder, "omission")
    assert len(pairs) == result.omission_pairs > 0
    for pair in pairs:
        assert not hallucinated(detector.check(pair.chosen_text, detector.truth(images[pair.provenance["source"]])))
        chosen, rejected = (
            {mention.name for mention in vocabulary.find(text)} for text in (pair.chosen_text, pair.rejected_text)
        )
        assert chosen - rejected == {pair.provenance["omitted"]} and rejected < chosen
    example = next(pair for pair in pairs if pair.id == "i0/o0")
    assert example.chosen_text == "There is a cat on the left and two cups on the right."
    assert example.rejected_text in ("There is a cat on the left.", "There are two cups on the right.")


def test_several_omission_pairs_a_description_leave_out_different_objects(
    parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    counts = {}
    for share in (1.0, 1.5, 3.0):
        folder = tmp_path / str(share)
        counts[share] = build(settings(parrot_folder, world, omission_share=share, qa=None), folder).omission_pairs
    assert counts[1.0] < counts[1.5] <= counts[3.0]
    left_out: dict[tuple[object, object], list[object]] = {}
    for pair in pairs_of(tmp_path / "3.0", "omission"):
        left_out.setdefault((pair.provenance["source"], pair.provenance["sample"]), []).append(
            pair.provenance["omitted"]
        )
    assert all(len(set(names)) == len(names) for names in left_out.values())
    assert max(map(len, left_out.values())) > 1
    ids = [pair.id for pair in pairs_of(tmp_path / "3.0", "omission")]
    assert len(set(ids)) == len(ids)


def test_no_omission_pairs_where_none_are_wanted(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    result = build(settings(parrot_folder, world, omission_share=0.0), tmp_path)
    assert result.omission_pairs == 0 and not pairs_of(tmp_path, "omission")


def test_question_pairs_are_balanced_and_right(built: tuple[Path, BuildResult], world: Path) -> None:
    folder, result = built
    images = {image.id: image for image in read_annotations(world)}
    pairs = pairs_of(folder, "question")
    assert pairs and result.yes_share == 0.5
    for pair in pairs:
        name = pair.provenance["object"]
        present = name in images[pair.provenance["source"]].object_names
        assert pair.provenance["present"] is present
        assert pair.prompt_text == f"Is there a {name} in the image?"
        answers = f"Yes, there is a {name}.", f"No, there is no {name}."
        assert (pair.chosen_text, pair.rejected_text) == (answers if present else answers[::-1])
    assert not all(pair.provenance["answered_rightly"] for pair in pairs)


def test_a_unit_of_work_decides_nothing_about_descriptions(
    built: tuple[Path, BuildResult], parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    build(settings(parrot_folder, world, variants=2, shard_size=64), tmp_path)
    assert pairs_of(tmp_path, "description") == pairs_of(built[0], "description")


def test_a_finished_build_needs_nothing_any_more(
    built: tuple[Path, BuildResult], parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built[0], copy)
    (copy / "units" / "00000.json").unlink()
    assert build(settings(parrot_folder, world, variants=2), copy) == built[1]


def test_another_source_is_refused(
    built: tuple[Path, BuildResult], parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another `seed`"):
        build(settings(parrot_folder, world, variants=2, seed=1), built[0])
    copied = shutil.copytree(world.parent, tmp_path / "world") / world.name
    copied.write_text(copied.read_text() + "\n")
    with pytest.raises(UserError, match="another `annotations`"):
        build(settings(parrot_folder, copied, variants=2), built[0])


def test_without_questions_without_additions(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    plain = settings(parrot_folder, world, qa=None, add_missed="none", samples_per_image=0, limit=6)
    result = build(plain, tmp_path)
    assert result.images == 6 and result.question_pairs == 0
    assert result.counts["questions"] == {"in": 0, "paired": 0}
    assert result.counts["descriptions"]["in"] == 4  # one greedy description of each usable picture
    # i4 shows a bird alone: nothing of the caption is left. i3 keeps its cat.
    assert result.counts["descriptions"]["nothing_left"] == 1
    assert result.counts["images"]["filter: no_pair"] == 1
    assert {pair.id: pair.chosen_text for pair in pairs_of(tmp_path, "description")}[
        "i3/d0v0"
    ] == "There is a cat on the left."
    assert result.chosen_words < result.rejected_words


def test_files_that_do_not_fit(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UserError, match=r"empty.jsonl is empty"):
        build(settings(parrot_folder, empty), tmp_path / "a")
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"image": "x.png", "objects": []}\n')
    with pytest.raises(UserError, match="no image has annotated objects"):
        build(settings(parrot_folder, bare), tmp_path / "b")
    with pytest.raises(UserError, match="no such annotation file"):
        build(settings(parrot_folder, tmp_path / "none.jsonl"), tmp_path / "c")


def test_vocabularies(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    images = list(read_annotations(world))
    assert read_vocabulary(settings(parrot_folder, world), images).names == ("bird", "cat", "cup", "dog", "horse")
    assert read_vocabulary(settings(parrot_folder, world, vocabulary="coco"), images).name_of("puppy") == "dog"
    own = tmp_path / "own.json"
    own.write_text('{"dog": ["hound"]}')
    assert read_vocabulary(settings(parrot_folder, world, vocabulary=str(own)), images).name_of("hounds") == "dog"


def test_objects_outside_the_vocabulary_are_quarantined(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"cat": [], "horse": []}')
    result = build(settings(parrot_folder, world, vocabulary=str(own), limit=6, samples_per_image=0), tmp_path / "run")
    assert result.counts["images"]["annotation: unknown_objects"] == 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two and a ha", "One."),
        ("One. Two!", "One. Two!"),
        ("No end", ""),
        ("", ""),
    ],
)
def test_unfinished_sentences_are_cut(text: str, kept: str) -> None:
    assert whole_sentences(text) == kept


def test_settings_are_checked() -> None:
    good = {"model": "m", "annotations": "a.jsonl"}
    assert BuildSettings.model_validate(good).qa is not None
    for wrong in (
        {"modell": 1},
        {"temperature": 0},
        {"top_p": 1.5},
        {"prompts": []},
        {"qa": {"share": 1}},
        {"limit": 0},
    ):
        with pytest.raises(ValidationError):
            BuildSettings.model_validate(good | wrong)
    assert all(field.description for field in BuildSettings.model_fields.values())
