"""The reader of claims against sentences labelled by hand: own ones, and OPERA's published captions where they are.

`python benchmarks/claims_reader.py` prints the figures. The bounds here are a little below what was measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.claims_reader import Score, agree, labelled, score
from mmpo.text.scene_claims import read_claims
from mmpo.text.vocabulary import coco

HERE = Path(__file__).parent
TWIN, OPERA = HERE / "claims_twin.jsonl", HERE / "claims_opera_labels.jsonl"


def shares(one: Score) -> tuple[float, float]:
    return one.right / max(1, one.read), one.found / max(1, one.labelled)


def test_own_sentences() -> None:
    scores = score(labelled(TWIN, None))["own"]
    expected = {"object": 1.0, "count": 1.0, "color": 0.6, "place": 0.6, "relation": 0.7}
    for kind, least in expected.items():
        precision, recall = shares(scores[kind])
        assert precision == 1.0 and recall >= least, (kind, scores[kind].errors)


@pytest.mark.parametrize("part", ["open", "kept"])
def test_published_captions(published_data: Path, part: str) -> None:
    sentences = [one for one in labelled(OPERA, published_data) if one.part == part]
    assert len(sentences) >= 40
    scores = score(sentences)[part]
    assert all(value > 0.93 for value in shares(scores["object"])), scores["object"].errors
    for kind in ("count", "place"):
        precision, recall = shares(scores[kind])
        assert precision > 0.85 and recall > 0.4, kind


def test_labels_hold_no_published_text() -> None:
    rows = [json.loads(line) for line in OPERA.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 250 and not any("text" in row or "caption" in row for row in rows)
    assert sum(row["part"] == "kept" for row in rows) == 125
    for row in rows:
        for label in (*row["claims"], *row["optional"]):
            kind, name, *value = label.split(":")
            assert name in coco().names and len(value) == {"object": 0, "relation": 2}.get(kind, 1), label


@pytest.mark.parametrize(
    ("read", "label", "same"),
    [
        ("count:dog:>=2", "count:dog:3", True), ("count:dog:>=4", "count:dog:3", False),
        ("count:dog:3", "count:dog:>=3", False),
        ("count:dog:>=3", "count:dog:several", True), ("count:dog:>=4", "count:dog:several", False),
        ("place:dog:left", "place:dog:top left", True), ("place:dog:right", "place:dog:top left", False),
        ("object:dog", "object:dog", True), ("object:dog", "object:cat", False),
    ],
)  # fmt: skip
def test_what_counts_as_agreement(read: str, label: str, same: bool) -> None:
    assert agree(read, label) is same


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("The sink is on the left side of the kitchen.", ["left"]),
        ("A fork is on the left side of the table, and a knife is on the right side.", []),
        ("One chair is on the left side of the court, and a bench is in the middle.", []),
        ("A cup is on the left side of its saucer. A dog is on the right.", ["right"]),
        ("A dog sits on the left side of the image, a cat on the left side of the mat.", ["left"]),
        ("The bed stands on the right.", ["right"]),
    ],
)
def test_a_place_in_something_else_is_no_place_in_the_picture(text: str, places: list[str]) -> None:
    assert [claim.value for claim in read_claims(text, coco()) if claim.kind == "place"] == places
