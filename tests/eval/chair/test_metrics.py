"""CHAIR on hand-written captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary({"dog": ["puppy"], "person": ["man", "woman"], "dining table": ["table"], "cup": ["mug"]})
TRUTH = {"1": ("dog", "person"), "2": ("cup",), "3": ("dog",)}
CAPTIONS = {
    "1": "A man and his puppy; another dog sits on a table near two mugs.",
    "2": "Nothing to see.",
    "3": "Two dogs.",
}


def test_metrics() -> None:
    result = chair.score(CAPTIONS, TRUTH, WORDS)
    assert list(result.metrics) == ["CHAIRi", "CHAIRs", "Recall", "Len"]
    assert result.metrics["CHAIRi"] == pytest.approx(2 / 6)  # man, puppy, dog, TABLE, MUGS, dogs
    assert result.metrics["CHAIRs"] == pytest.approx(1 / 3)  # the caption without objects counts
    assert result.metrics["Recall"] == pytest.approx(3 / 4)  # micro: dog and person, dog; the cup is missed
    assert result.metrics["Len"] == pytest.approx((16 + 4 + 3) / 3)
    assert result.without_objects == 1
    assert result.tally.undefined == ()


def test_rows_say_where_each_mention_stands() -> None:
    row = chair.score(CAPTIONS, TRUTH, WORDS).rows[0]
    assert [(m.word, m.name, m.hallucinated) for m in row.mentions] == [
        ("man", "person", False),
        ("puppy", "dog", False),
        ("dog", "dog", False),
        ("table", "dining table", True),
        ("mugs", "cup", True),
    ]
    assert all(row.caption[m.start : m.end] == m.word for m in row.mentions)
    assert row.hallucinated and row.found == ("dog", "person") and row.missed == ()


def test_counts_are_kept_by_image() -> None:
    tally = chair.score(CAPTIONS, TRUTH, WORDS).tally
    assert tally.images == ("1", "2", "3")
    assert tally.counts.tolist() == [[5, 2, 1, 1, 2, 2, 16], [0, 0, 1, 0, 0, 1, 4], [1, 0, 1, 0, 1, 1, 3]]
    assert tally.outcomes == {"1": False, "2": True, "3": True}


def test_no_mention_at_all_is_flagged() -> None:
    result = chair.score({"2": "Nothing."}, TRUTH, WORDS)
    assert result.metrics["CHAIRi"] == 0 and result.tally.undefined == ("CHAIRi",)


def test_ground_truth_of_annotations_and_reference_captions(tmp_path: Path) -> None:
    image = AnnotatedImage(
        id="1", path="a.jpg", root=tmp_path, width=1, height=1,
        objects=(AnnotatedObject("Table"), AnnotatedObject("dog"), AnnotatedObject("dog"), AnnotatedObject("lamp")),
        captions=("A woman holds a mug.", "A dog."),
    )  # fmt: skip
    assert chair.ground_truth([image], WORDS) == {"1": ("dining table", "dog", "person", "cup")}


@pytest.mark.parametrize(
    ("captions", "truth", "message"),
    [
        ({}, TRUTH, "no descriptions"),
        ({"9": "A dog."}, TRUTH, "image 9 is described but has no ground-truth objects"),
        (
            {"1": "A dog."},
            {"1": ("dog", "unicorn")},
            "image 1: the object 'unicorn' is not in the vocabulary of 4 names",
        ),
    ],
)
def test_what_cannot_be_scored(captions: dict, truth: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chair.score(captions, truth, WORDS)


def test_caption_files(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "caption": "A dog."}, {"image_id": "b", "caption": ""}]
    expected = {"1": "A dog.", "b": ""}
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "array.json").write_text(json.dumps(rows))
    original = {"overall": {}, "imgToEval": {str(row["image_id"]): {"caption": row["caption"]} for row in rows}}
    (tmp_path / "original.json").write_text(json.dumps(original))
    for name in ("lines.jsonl", "array.json", "original.json"):
        assert chair.read_captions(tmp_path / name) == expected, name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}],
            r"c.jsonl:2: image 1 is already described at .*:1",
        ),
        ([{"caption": "a"}], "c.jsonl:1: no `image_id`; the record has `caption`"),
        ([{"image_id": 1}], "c.jsonl:1: no `caption`"),
    ],
)
def test_caption_errors_name_the_line(tmp_path: Path, rows: list[dict], message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message):
        chair.read_captions(path)


def test_ground_truth_file(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text('{"1": ["dog", "dog", "cup"]}')
    assert chair.read_ground_truth(path) == {"1": ("dog", "cup")}
    for text, message in (
        ('{"1": "dog"}', "image 1: expected a list of object names"),
        ("[1]", "expected an object that maps"),
        ("{", "gt.json:1: not valid JSON"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            chair.read_ground_truth(path)


def test_written_rows_are_captions_again(tmp_path: Path) -> None:
    result = chair.score(CAPTIONS, TRUTH, WORDS)
    chair.write_rows(tmp_path / "rows.jsonl", result)
    assert chair.read_captions(tmp_path / "rows.jsonl") == CAPTIONS
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert first["mentions"][3]["hallucinated"] is True and first["missed"] == []
