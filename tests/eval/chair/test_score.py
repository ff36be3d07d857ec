"""`mmpo eval score chair` on hand-written files: every kind of ground truth, every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.errors import UserError
from mmpo.eval.chair.score import objects_by_image
from mmpo.eval.scoring import Scored, ScoreRequest, score
from mmpo.statistics import wilson

CAPTIONS = [
    {"image_id": 1, "caption": "A man and his dog beside a table."},
    {"image_id": 2, "caption": "Nothing."},
    {"image_id": 3, "caption": "Two dogs and a cat."},
]
TABLE = {"1": ["person", "dog"], "2": ["cup"], "3": ["dog", "bench"], "4": ["bus"]}
INSTANCES: dict[str, Any] = {
    "info": {},
    "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1},
        {"id": 2, "image_id": 2, "category_id": 3},
        {"id": 3, "image_id": 3, "category_id": 2},
        {"id": 4, "image_id": 3, "category_id": 4},
    ],
    "categories": [{"id": i, "name": name} for i, name in enumerate(("person", "dog", "cup", "bench"), start=1)],
}
REFERENCES = {"annotations": [{"image_id": 1, "id": 9, "caption": "A man with a puppy."}]}


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return lines(tmp_path / "captions.jsonl", CAPTIONS)


def scored(answers: Path, annotations: Path, **options: str) -> Scored:
    return score("chair", ScoreRequest(answers, annotations=annotations, options=options))


def expect(result: Scored) -> None:
    """Mentions: man, dog, TABLE; none; dogs, CAT."""
    assert result.metrics["CHAIRi"] == pytest.approx(100 * 2 / 5)
    assert result.metrics["CHAIRs"] == pytest.approx(100 * 2 / 3)
    assert result.metrics["Recall"] == pytest.approx(100 * 3 / 5)
    assert result.metrics["Len"] == pytest.approx((9 + 2 + 6) / 3)
    assert (result.metrics["mentions"], result.metrics["without_objects"]) == (5, 1)
    assert (result.read, result.scored, result.quarantined) == (3, 3, {})


def test_table(answers: Path, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TABLE))
    result = scored(answers, tmp_path / "gt.json", sentences=str(tmp_path / "rows.jsonl"))
    expect(result)
    assert any("rules (" in line for line in result.conventions)
    share = wilson(round(3 * result.metrics["CHAIRs"] / 100), 3)
    assert result.intervals["CHAIRs"] == pytest.approx([100 * share.low, 100 * share.high])
    for name in ("CHAIRi", "Recall", "Len"):
        low, high = result.intervals[name]
        assert low < result.metrics[name] < high, name
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [m["word"] for row in rows for m in row["mentions"] if m["hallucinated"]] == ["table", "cat"]


def test_coco_files_and_the_table_made_of_them(answers: Path, tmp_path: Path) -> None:
    (tmp_path / "instances_val.json").write_text(json.dumps(INSTANCES))
    (tmp_path / "captions_val.json").write_text(json.dumps(REFERENCES))
    named = scored(
        answers,
        tmp_path / "instances_val.json",
        captions=str(tmp_path / "captions_val.json"),
        objects=str(tmp_path / "gt.json"),
    )
    expect(named)
    assert json.loads((tmp_path / "gt.json").read_text())["1"] == ["person", "dog"]  # the dog is the caption's
    expect(scored(answers, tmp_path))  # COCO's folder, files found by name
    expect(scored(answers, tmp_path / "gt.json"))


def test_folder_of_two_splits(tmp_path: Path) -> None:
    for split, shift in (("train", 0), ("val", 10)):
        moved = json.loads(json.dumps(INSTANCES))
        for image in moved["images"]:
            image["id"] += shift
        for annotation in moved["annotations"]:
            annotation["image_id"] += shift
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(moved))
    truth, _ = objects_by_image(tmp_path)
    assert truth["1"] == truth["11"] == ("person",) and truth["13"] == ("dog", "bench")
    (tmp_path / "instances_other.json").write_text(json.dumps(INSTANCES))
    with pytest.raises(UserError, match=r"instances_train.json: image id 1 is in instances_other.json too"):
        objects_by_image(tmp_path)


def test_json_lines_by_id_or_file_name(tmp_path: Path) -> None:
    rows = [{"image": f"{key}.jpg", "id": key, "objects": names} for key, names in TABLE.items()]
    annotations = lines(tmp_path / "annotations.jsonl", rows)
    expect(scored(lines(tmp_path / "a.jsonl", CAPTIONS), annotations))
    (tmp_path / "list.json").write_text(json.dumps(rows))
    expect(scored(tmp_path / "a.jsonl", tmp_path / "list.json"))
    by_name = [{"file": f"{row['image_id']}.jpg", "text": row["caption"]} for row in CAPTIONS]
    expect(scored(lines(tmp_path / "b.jsonl", by_name), annotations, image_key="file", caption_key="text"))


def test_own_vocabulary_and_word_forms(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps({"1": ["shoe"]}))
    (tmp_path / "words.json").write_text(json.dumps({"shoe": ["boot"], "hat": ["cap"]}))
    captions = lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": "Boots, boots and caps."}])
    for words in ("rules", "noun-lemma", "singularize"):
        result = scored(captions, tmp_path / "gt.json", vocabulary=str(tmp_path / "words.json"), words=words)
        assert result.metrics["CHAIRi"] == pytest.approx(100 / 3), words
        assert any(line.startswith(f"word forms: {words}") for line in result.conventions)


def test_published_rules_follow_the_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps({"1": []}))
    (tmp_path / "synonyms.txt").write_text("motorcycle,  motor bike\nbicycle, bike\n")
    captions = lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": "A motor bike."}])
    options = {"vocabulary": str(tmp_path / "synonyms.txt")}
    assert scored(captions, tmp_path / "gt.json", **options).metrics["mentions"] == 0
    assert scored(captions, tmp_path / "gt.json", **options, published_rules="no").metrics["mentions"] == 1
    with pytest.raises(UserError, match="published_rules must be yes or no, got 'maybe'"):
        scored(captions, tmp_path / "gt.json", **options, published_rules="maybe")


def test_nothing_mentioned_and_empty_captions_are_said(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps({"1": ["dog"], "2": ["dog"]}))
    rows = [{"image_id": 1, "caption": ""}, {"image_id": 2, "caption": "Fog."}]
    result = scored(lines(tmp_path / "a.jsonl", rows), tmp_path / "gt.json")
    assert result.metrics["CHAIRi"] == 0
    assert any("CHAIRi is undefined" in line for line in result.warnings)
    assert any(line.startswith("1 descriptions are empty") for line in result.warnings)


@pytest.mark.parametrize(
    ("rows", "table", "message"),
    [
        ([{"image_id": 9, "caption": "A dog."}], TABLE, r"a.jsonl:1: image 9 has no objects in .*gt.json"),
        ([{"image_id": 1, "caption": "A dog."}] * 2, TABLE, r"a.jsonl:2: image 1 is already described at .*a.jsonl:1"),
        ([{"image_id": 1, "caption": None}], TABLE, r"a.jsonl:1: `caption` must be text, found null"),
        (
            [{"id": 1, "caption": "x"}],
            TABLE,
            r"a.jsonl:1: no `image_id`; the record has `id`, `caption`\n  hint: image_key",
        ),
        ([{"image_id": 1, "caption": "x"}], {"1": "dog"}, "image 1: expected a list of object names"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, rows: list[dict], table: dict, message: str) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        scored(lines(tmp_path / "a.jsonl", rows), tmp_path / "gt.json")


def test_half_written_line(tmp_path: Path, answers: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TABLE))
    answers.write_text(answers.read_text()[:-20])
    with pytest.raises(UserError, match=r"captions.jsonl:3: not valid JSON"):
        scored(answers, tmp_path / "gt.json")


def test_command_line(tmp_path: Path, answers: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TABLE))
    arguments = ["eval", "score", "chair", "--answers", str(answers), "--annotations", str(tmp_path / "gt.json")]
    result = CliRunner().invoke(load_commands(), [*arguments, "--set", "words=noun-lemma", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["benchmark"] == "chair" and data["CHAIRi"] == pytest.approx(40.0)
    assert CliRunner().invoke(load_commands(), [*arguments, "--set", "wrods=x"]).exit_code != 0
