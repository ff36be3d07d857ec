"""The recipe `photos`: from a folder of photos to an adapter, and its mistakes named before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.shards import read_pairs
from tests.cli.conftest import Invoke
from tests.data_builders.candidates import world
from tests.data_builders.candidates.conftest import photos, talker

__all__ = ["photos", "talker"]

EDITED = "{maker: edited, guards: {refuse_style: null}}"
"""A model that has a handful of sentences for all photos: their wording tells the sides apart."""


@pytest.fixture
def place(talker: Path, photos: Path, tmp_path: Path) -> dict[str, str]:
    """What a user edits: model, photos, words, and a source of evidence, as overrides."""
    world.register()
    (tmp_path / "test").mkdir()
    world.picture(50).save(tmp_path / "test" / "t.png")
    (tmp_path / "words.json").write_text(json.dumps({name: [] for name in world.THINGS}))
    seen = world.truth()
    (tmp_path / "seen.json").write_text(json.dumps({**seen, "t.png": seen["p0.png"]}))
    source = f"{{source: scripted, path: {tmp_path / 'seen.json'}}}"
    return {
        "model": str(talker),
        "build.images": str(photos),
        "build.not_in": f"[{tmp_path / 'test'}]",
        "build.vocabulary": str(tmp_path / "words.json"),
        "build.prompts": f"[{world.DESCRIBE!r}]",
        "build.evidence": f"[{source}, {source}]",
        "build.temperature": "1.0",
        "build.samples": "5",
        "build.max_new_tokens": "40",
        "build.dtype": "float32",
        "build.pairs": EDITED,
        "train.dtype": "float32",
        "train.max_steps": "2",
        "train.lora.rank": "4",
        "train.gradient_checkpointing": "false",
        "eval.evidence.images": str(tmp_path / "test"),
        "eval.evidence.vocabulary": str(tmp_path / "words.json"),
        "eval.evidence.prompt": world.DESCRIBE,
        "eval.evidence.max_new_tokens": "40",
        "eval.evidence.sources": f"[{source}, {source}]",
        "eval.bootstrap.samples": "100",
    }


def options(values: dict[str, str]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_a_folder_of_photos_becomes_an_adapter(mmpo: Invoke, place: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = mmpo("run", "photos", "--out", str(run), *options(place))
    assert done.exit_code == 0, done.output
    assert "responses about 10 photos" in done.output and f"candidates, claims and verdicts: {run}" in done.output
    assert list(read_pairs(run / "build" / "pairs"))
    assert (run / "train" / "adapter" / "adapter_config.json").is_file()
    assert (run / "eval" / "scorecard.json").is_file()  # by the same evidence, on other photos
    shown = mmpo("inspect", str(run / "build" / "candidates"))
    assert shown.exit_code == 0 and "claims: in" in shown.output and "verdicts drawn" in shown.output
    assert mmpo("inspect", str(run / "build" / "candidates"), "--json").exit_code == 0
    made, recipe = run / "build" / "candidates", tmp_path / "again.yaml"
    recipe.write_text(f"build: {{builder: pairs_from_candidates, candidates: {made}, pairs: {EDITED}}}\n")
    assert mmpo("build", str(recipe), "--out", str(tmp_path / "again")).exit_code == 0
    assert len(list(read_pairs(tmp_path / "again" / "build" / "pairs"))) == len(list(read_pairs(run / "build/pairs")))


@pytest.mark.parametrize(
    "key, value, told",
    [
        ("build.images", "nowhere", "build.images: nowhere: no such file or folder"),
        ("build.images", "EMPTY", "no photos are there"),
        ("build.not_in", "[nowhere]", "build.not_in.0: nowhere: no such"),
        ("build.evidence", "[{source: detector, model: nowhere}]", "build.evidence.0.model: nowhere: no such folder"),
        ("build.evidence", "[{source: oracle}]", "build.evidence"),
        ("build.evidence", "[]", "build.evidence"),
        ("build.pairs", "{maker: best_wurst}", "should be one of best_worst, "),
        ("build.pairs", "{maker: best_worst, gab: 2}", "build.pairs.gab: unknown key"),
        ("build.pairs", "null", "build.pairs: missing: the build makes candidates alone"),
        ("build.controls", "{annotations: nowhere.jsonl}", "build.controls.annotations: nowhere.jsonl"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    mmpo: Invoke, place: dict[str, str], tmp_path: Path, key: str, value: str, told: str
) -> None:
    if value == "EMPTY":
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("no photo")
        value = str(tmp_path / "empty")
    found = mmpo("run", "photos", "--out", str(tmp_path / "run"), *options({**place, key: value}))
    assert found.exit_code == 2 and told in found.output, found.output
    assert not (tmp_path / "run" / "build").exists()
