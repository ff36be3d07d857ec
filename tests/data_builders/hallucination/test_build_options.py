"""What a build can be told: choice of images, checks, wordings and pairings, captions, weights, shared descriptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, Region
from mmpo.data.shards import read_pairs
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.choose import choose_images
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.grammar.writer import Writer
from mmpo.data_builders.hallucination.settings import BuildSettings, ChoiceSettings
from mmpo.errors import UserError
from mmpo.progress import reporting
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders import parrot
from tests.data_builders.hallucination.grammar.test_parse import WORDS
from tests.data_builders.hallucination.test_build import pairs_of, settings

CAPTIONED = "The picture shows a yard with a cat, a bird and a horse."


@pytest.fixture(scope="module")
def captioned(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with a caption for each image that names its objects."""
    folder = tmp_path_factory.mktemp("captioned") / "world"
    shutil.copytree(world.parent, folder)
    rows = [json.loads(line) for line in (folder / world.name).read_text().splitlines()]
    for row in rows:
        names = [item["name"] for item in row["objects"]]
        row["captions"] = [f"A yard with {' and '.join(f'a {name}' for name in names)}."] if names else []
    (folder / world.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / world.name


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model said, shared by the builds of this file."""
    return tmp_path_factory.mktemp("generations")


def quick(parrot_folder: Path, world: Path, **changes: Any) -> BuildSettings:
    return settings(parrot_folder, world, **({"qa": None, "samples_per_image": 0, "omission_share": 0.0} | changes))


@pytest.mark.parametrize(("pairs", "suffixes"), [
    (None, {"d0v0", "d0v1", "d0v2"}),
    (1, None),
    (9, {"d0v0", "d0v0x1", "d0v0x2", "d0v1", "d0v1x0", "d0v1x2", "d0v2", "d0v2x0", "d0v2x1"}),
])  # fmt: skip
def test_pairs_per_image(
    pairs: int | None, suffixes: set[str] | None, parrot_folder: Path, world: Path, generations: Path, tmp_path: Path
) -> None:
    result = build(quick(parrot_folder, world, variants=3, pairs_per_image=pairs), tmp_path, generations=generations)
    found: dict[str, set[str]] = {}
    texts: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs_of(tmp_path, "description"):
        found.setdefault(pair.provenance["source"], set()).add(pair.id.rpartition("/")[2])
        texts.setdefault(pair.provenance["source"], []).append((pair.chosen_text, pair.rejected_text))
    assert found and sum(map(len, found.values())) == result.description_pairs
    assert all(len(set(rows)) == len(rows) for rows in texts.values())
    for names in found.values():
        assert len(names) == 1 if suffixes is None else names <= suffixes
    assert suffixes is None or any(names == suffixes for names in found.values())


def test_captions_in_the_models_own_sentences(
    parrot_folder: Path, captioned: Path, generations: Path, tmp_path: Path
) -> None:
    build(quick(parrot_folder, captioned, correction="caption"), tmp_path / "a", generations=generations)
    pairs = {pair.id: pair for pair in pairs_of(tmp_path / "a", "description")}
    assert pairs["i0/d0v0"].chosen_text == "There is a cat and a cup."
    assert pairs["i0/d0v0"].rejected_text == parrot.CAPTION
    build(quick(parrot_folder, captioned, correction="caption", rewrite=False), tmp_path / "b", generations=generations)
    raw = {pair.id: pair for pair in pairs_of(tmp_path / "b", "description")}
    assert raw["i0/d0v0"].chosen_text == "A yard with a cat and a cup."
    assert raw["i0/d0v0"].rejected_text == parrot.CAPTION


def test_written_anew_from_the_annotation(
    parrot_folder: Path, captioned: Path, generations: Path, tmp_path: Path
) -> None:
    """In another writer's words style tells the sides apart at once; in the model's own sentences less so."""
    raw = build(
        quick(parrot_folder, captioned, correction="template", rewrite=False), tmp_path / "raw", generations=generations
    )
    texts = {pair.id: pair.chosen_text for pair in pairs_of(tmp_path / "raw", "description")}
    assert texts["i5/d0v0"].startswith("The image contains ") and "a horse" in texts["i5/d0v0"]
    worded = build(quick(parrot_folder, captioned, correction="template"), tmp_path / "worded", generations=generations)
    texts = {pair.id: pair.chosen_text for pair in pairs_of(tmp_path / "worded", "description")}
    assert texts["i5/d0v0"].startswith("There is ") and "The image" not in "".join(texts.values())
    assert raw.style is not None and worded.style is not None
    assert raw.style.wording.auroc == 1.0 > worded.style.wording.auroc


@pytest.mark.parametrize(
    ("text", "told", "chosen"),
    [
        ("A yard. There is a dog.", CAPTIONED, "A yard. There is a cat, a bird and a horse."),
        (
            "There is a dog. The picture shows a yard with a dog.",  # the last list is the frame
            "There are two cats.",
            "The picture shows a yard with two cats.",
        ),
        (
            "In this yard picture I can see a dog and a cup.",
            "There is a cat on the left.",
            "In this yard picture I can see a cat on the left.",
        ),
    ],
)
def test_recasting(text: str, told: str, chosen: str) -> None:
    assert Writer(WORDS).recast(text, told) == (text, chosen)
    assert Writer(WORDS).recast("A calm day.", told) is None
    assert Writer(WORDS).recast(text, "A calm day.") is None


def test_a_texts_wording_by_itself() -> None:
    text = "A yard. There is a dog."
    assert Writer(WORDS).reword(text, 0, "x") == text
    assert len({Writer(WORDS).reword(text, variant, "x") for variant in range(1, 6)}) > 1


def test_weights_stand_on_what_was_made_up(parrot_folder: Path, world: Path, generations: Path, tmp_path: Path) -> None:
    build(quick(parrot_folder, world, changed_weight=5.0, add_missed="none"), tmp_path, generations=generations)
    first = next(pair for pair in pairs_of(tmp_path, "description") if pair.id == "i0/d0v0")
    (span,) = first.rejected_weights or []
    assert span["weight"] == 5.0 and "a dog in the middle" in first.rejected_text[span["start"] : span["end"]]
    assert first.chosen_weights is None


def test_numbers_and_places_are_checked_where_wanted(
    parrot_folder: Path, world: Path, generations: Path, tmp_path: Path
) -> None:
    names = ["object", "count", "place"]
    result = build(quick(parrot_folder, world, correct=names, add_missed="none"), tmp_path, generations=generations)
    pairs = {pair.id: pair for pair in pairs_of(tmp_path, "description")}
    # One cup, at the centre of the picture's first half; the model says two on the right, and a dog that is not there.
    assert pairs["i0/d0v0"].chosen_text.startswith("There is a cat on the left and a cup ")
    reasons = [verdict["reason"] for verdict in pairs["i0/d0v0"].provenance["verdicts"]]
    assert "no dog in this picture" in reasons[0] and "1 cup, not 2" in reasons[0]
    assert result.hallucinating_share > 0


def test_one_description_pass_serves_several_builds(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    build(settings(parrot_folder, world), tmp_path / "a", generations=tmp_path / "generations")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "generations").iterdir()}
    assert len(before) == 6
    build(settings(parrot_folder, world), tmp_path / "b", generations=tmp_path / "generations")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "generations").iterdir()} == before
    for name in ("pairs/data/train-00000.parquet", "build_result.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    build(settings(parrot_folder, world, top_p=0.5), tmp_path / "c", generations=tmp_path / "generations")
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {f"0000{unit}.descriptions.json" for unit in range(3)}


def test_other_weights_under_the_same_name_are_noticed(world: Path, parrot_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(parrot_folder, model)
    plain = quick(model, world, limit=2)
    result = build(plain, tmp_path / "run")
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="another `content of the model's files`"):
        build(plain, tmp_path / "run")
    shutil.rmtree(model)  # a finished build does not need it
    assert build(plain, tmp_path / "run") == result


def test_progress_moves_within_a_unit(parrot_folder: Path, world: Path, generations: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Count:
        def begin(self, label: str, total: int | None) -> Any:
            class Task:
                def advance(self, steps: int = 1, note: str | None = None) -> None:
                    seen.append((label, steps))

                def extend(self, total: int | None) -> None:
                    return None

                def close(self, *, finished: bool) -> None:
                    return None

            return Task()

    with reporting(Count()):
        build(quick(parrot_folder, world, shard_size=64), tmp_path)
    steps = [step for label, step in seen if label.startswith("describing")]
    assert sum(steps) == 12 and steps.count(1) == 12


def test_choice_of_images(parrot_folder: Path, world: Path, generations: Path, tmp_path: Path) -> None:
    vocabulary = ObjectVocabulary.from_names(["cat", "dog", "cup"])

    def image(number: int, names: str, phrases: int) -> AnnotatedImage:
        objects = tuple(map(AnnotatedObject, names.split()))
        return AnnotatedImage(str(number), "x", Path("."), 9, 9, objects, (), (Region("a thing"),) * phrases)

    images = [
        image(0, "cat", 3), image(1, "cat dog", 3), image(2, "cat dog cup", 3), image(3, "cat dog", 0),
        image(4, "cat bird", 3), image(5, "dog cat", 3), image(6, "dog cat", 3),
    ]  # fmt: skip
    wanted = ChoiceSettings(min_objects=2, max_objects=2, min_phrases=1, images=2)
    chosen, counts = choose_images(images, wanted, Detector(vocabulary), 0)
    assert counts == {
        "in": 7, "too_few_objects": 2, "too_many_objects": 1, "thin_annotation": 1, "not_drawn": 1, "chosen": 2,
    }  # fmt: skip
    assert {image.id for image in chosen} < {"1", "5", "6"}
    assert chosen == choose_images(images, wanted, Detector(vocabulary), 0)[0]
    result = build(quick(parrot_folder, world, choose={"min_objects": 2}), tmp_path / "run", generations=generations)
    assert result.counts["listed"] == {"in": 12, "too_few_objects": 3, "chosen": 9}
    assert result.images == result.counts["images"]["in"] == 9
    with pytest.raises(UserError, match="no image fits `choose`"):
        build(quick(parrot_folder, world, choose={"min_objects": 9}), tmp_path / "none")
    assert len(list(read_annotations(world))) == 12


def test_the_style_probe_is_in_the_result_and_on_the_card(
    parrot_folder: Path, captioned: Path, generations: Path, tmp_path: Path
) -> None:
    rewritten = build(quick(parrot_folder, captioned, correction="caption"), tmp_path / "a", generations=generations)
    raw = build(
        quick(parrot_folder, captioned, correction="caption", rewrite=False), tmp_path / "b", generations=generations
    )
    assert raw.style is not None and rewritten.style is not None
    assert raw.style.separable and raw.style.style.auroc > rewritten.style.style.auroc - 1e-9
    assert "Style probe" in json.loads((tmp_path / "b/pairs/card.json").read_text())["notes"]
    assert len(list(read_pairs(tmp_path / "b/pairs"))) == raw.style.pairs


@pytest.mark.parametrize(
    "wrong",
    [
        {"variants": 3, "pairs_per_image": 2},
        {"rewrite": False, "variants": 2},
        {"correct": []},
        {"correct": ["smell"]},
        {"correction": "caption", "judge": {"backend": "local", "model": "m"}},
        {"judge": {"backend": "server", "model": "m"}},
    ],
)
def test_settings_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BuildSettings.model_validate({"model": "m", "annotations": "a.jsonl"} | wrong)
