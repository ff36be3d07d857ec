"""AMBER on the published annotations: the numbers that the published script prints for simple responders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mmpo.eval.amber import files as amber_files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.metrics import AmberLabel, AmberObjects, Annotations
from mmpo.eval.amber.words import Exact
from mmpo.eval.scoring import ScoreRequest, score


@pytest.fixture(scope="module")
def annotations(request: pytest.FixtureRequest) -> Annotations:
    folder: Path = request.getfixturevalue("published_data")
    return amber_files.read_annotations(folder / "junyangwang0410_AMBER/data")


def test_counts(annotations: Annotations) -> None:
    described = [item for item in annotations.items.values() if isinstance(item, AmberObjects)]
    asked = [item for item in annotations.items.values() if isinstance(item, AmberLabel)]
    assert (len(described), len(asked), len(annotations.related), len(annotations.words)) == (1004, 14216, 340, 418)
    assert sum(len(item.truth) for item in described) == 5599
    assert {line: len(members) for line, members in amber.groups(asked).items()} == {
        "all": 14216, "existence": 4924, "attribute": 7628, "state": 4764, "number": 2072, "action": 792,
        "relation": 1664,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "nouns", "expected"),
    [
        ("truth", lambda item: item.truth, (0.0, 93.3, 0.0, 0.0)),
        ("hallu", lambda item: item.hallu, (91.9, 2.5, 100.0, 90.8)),
        ("truth, then hallu", lambda item: item.truth + item.hallu, (43.0, 93.4, 100.0, 90.8)),
        ("the same three", lambda item: ("person", "tree", "sky"), (64.4, 19.2, 92.8, 22.0)),
        ("the first of each", lambda item: (item.truth[0], item.hallu[0]), (46.3, 18.4, 92.5, 18.9)),
        ("nothing", lambda item: (), (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_generative(
    annotations: Annotations, name: str, nouns: Callable[[AmberObjects], Sequence[str]], expected: tuple[float, ...]
) -> None:
    items = [item for item in annotations.items.values() if isinstance(item, AmberObjects)]
    counts = [amber.describe(item, nouns(item), annotations, Exact()).counts for item in items]
    assert tuple(amber.published_generative(counts).values()) == expected


def test_why_naming_everything_does_not_cover_everything(annotations: Annotations) -> None:
    """Related words are searched first, so 335 words in 275 images are never covered by their own name."""
    items = [item for item in annotations.items.values() if isinstance(item, AmberObjects)]
    shadowed = {
        item.id: sum(any(word in annotations.related[other] for other in item.truth) for word in item.truth)
        for item in items
    }
    assert (sum(shadowed.values()), sum(map(bool, shadowed.values()))) == (335, 275)
    first = [amber.describe(item, item.truth, annotations, Exact(), "names-first").counts for item in items]
    assert amber.published_generative(first)["Cover"] == 98.3  # what is left: safe words, and words listed twice


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        (
            "yes", lambda item: "yes",
            {"all": (33.7, 0, 0, 0), "existence": (0, 0, 0, 0), "attribute": (50, 0, 0, 0),
             "relation": (58.6, 0, 0, 0)},
        ),
        (
            "no", lambda item: "no",
            {"all": (66.3, 66.3, 100, 79.7), "existence": (100, 100, 100, 100), "attribute": (50, 50, 100, 66.7),
             "relation": (41.4, 41.4, 100, 58.6)},
        ),
        (
            "truth", lambda item: item.label,
            dict.fromkeys(("all", "existence", "attribute", "state", "number", "action", "relation"), (100,) * 4),
        ),
    ],
)  # fmt: skip
def test_discriminative(
    annotations: Annotations, name: str, answer: Callable[[AmberLabel], str], expected: dict
) -> None:
    asked = [item for item in annotations.items.values() if isinstance(item, AmberLabel)]
    lines = amber.groups(asked)
    for line, values in expected.items():
        counts = np.array([amber.answer_counts(item, answer(item)) for item in lines[line]]).sum(0)  # type: ignore[arg-type]
        assert tuple(amber.published_discriminative(counts, line).values()) == values, line


def test_whole_response_file(published_data: Path, tmp_path: Path) -> None:
    data = published_data / "junyangwang0410_AMBER/data"
    responses = [
        {
            "id": item["id"],
            "response": "There is " + " and ".join(f"a {word}" for word in item["truth"]) + "."
            if item["type"] == "generative"
            else item["truth"].capitalize(),
        }
        for item in json.loads((data / "annotations.json").read_text())
    ]
    (tmp_path / "responses.json").write_text(json.dumps(responses))
    request = ScoreRequest(tmp_path / "responses.json", annotations=data, options={"words": "noun-lemma"})
    result = score("amber", request)
    assert (result.read, result.scored, result.unparsed) == (15220, 15220, 0)
    # Read from texts, `sunglasses` is lost in two images: WordNet reduces it to a word that AMBER doesn't have.
    assert {name: result.metrics[name] for name in ("CHAIR", "Cover", "Hal", "Cog", "AMBER_score")} == {
        "CHAIR": 0.0, "Cover": 93.3, "Hal": 0.0, "Cog": 0.0, "AMBER_score": 100.0,
    }  # fmt: skip


def test_queries(published_data: Path, annotations: Annotations) -> None:
    folder = published_data / "junyangwang0410_AMBER/data/query"
    generative = amber_files.read_queries(folder / "query_generative.json")
    relation = amber_files.read_queries(folder / "query_discriminative-relation.json")
    assert (len(generative), len(relation)) == (1004, 1664)
    assert {query.text for query in generative} == {"Describe this image."}
    assert all(isinstance(annotations.items[query.id], AmberLabel) for query in relation)
