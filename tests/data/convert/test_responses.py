"""JSON Lines of prompts with scored responses, and pairs of other formats, to groups of responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.convert import convert, detect
from mmpo.data.shards import PairWriter, read_groups
from mmpo.errors import UserError
from tests.data.convert.sources import rejects, write_json, write_lines
from tests.data.making import make_pair, picture

ANSWERS = [{"text": "A dog.", "score": 0.9}, {"text": "A cat.", "score": None}, {"text": "Two."}]
ROW: dict[str, Any] = {"images": ["a.png"], "prompt": "What is this?", "responses": ANSWERS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture(1))
    return tmp_path / "in"


def test_rows_become_groups(folder: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "Here: "}, {"type": "image"}]}]
    rows = [ROW, {**ROW, "id": 7, "prompt": "<image>\nWhat?"}, {**ROW, "prompt": chat}, {**ROW, "images": []}]
    file = write_lines(folder / "rows.jsonl", rows)
    assert detect(file) == detect(folder) == "responses"
    result = convert(file, tmp_path / "out", out_format="responses")
    assert (result.rows, result.kept, result.pairs, result.without_media) == (4, 4, 4, 1)
    first, second, third, fourth = read_groups(tmp_path / "out")
    assert [(one.text, one.score) for one in first.responses] == [("A dog.", 0.9), ("A cat.", None), ("Two.", None)]
    assert first.images == [picture(1)] and first.provenance["sources"] == ["rows.jsonl:1"]
    assert [part["type"] for part in first.prompt[0]["content"]] == ["image", "text"]
    assert (first.id, second.id) == ("rows-1", "7")
    assert (third.prompt, fourth.images) == (chat, [])
    assert convert(tmp_path / "out", tmp_path / "again", out_format="responses").kept == 4
    assert list(read_groups(tmp_path / "again")) == [first, second, third, fourth]


def test_hostile_rows_are_quarantined_with_place_and_reason(folder: Path, tmp_path: Path) -> None:
    def of(*responses: Any) -> dict[str, Any]:
        return {**ROW, "responses": list(responses)}

    hostile: list[tuple[Any, str]] = [
        (of(), "invalid"),
        (of("A dog."), "invalid"),
        (of({"score": 1}), "invalid"),
        (of({"text": "", "score": 1}), "invalid"),
        (of({"text": 5, "score": 1}), "invalid"),
        (of({"text": "A dog.", "score": "0.9"}), "invalid"),
        (of({"text": "A dog.", "score": True}), "invalid"),
        (of({"text": "A dog.", "score": 10**400}), "not_json"),
        (of({"text": "a", "score": 1}, {"text": "a", "score": 2}), "invalid"),
        (of({"text": "see <image>", "score": 1}), "invalid"),
        ({**ROW, "responses": {"text": "a"}}, "bad_type"),
        ({**ROW, "responses": None}, "missing_key"),
        ({**ROW, "prompt": 3}, "bad_type"),
        ({**ROW, "prompt": []}, "invalid"),
        ({**ROW, "prompt": [{"role": "assistant", "content": "Hi."}], "images": []}, "invalid"),
        ({**ROW, "prompt": "<image><image>"}, "image_count"),
        ({**ROW, "images": ["gone.png"]}, "missing"),
        ({**ROW, "images": ["../x.png"]}, "path_escape"),
        ({**ROW, "images": [], "picture_b": "b.png"}, "unread_media"),
        ({**ROW, "videos": [5]}, "bad_video"),
        ([1], "not_an_object"),
    ]
    lines = [json.dumps(row) for row, _ in hostile]
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(ROW), *lines, "{broken", '{"responses": NaN}']) + "\n")
    result = convert(folder / "rows.jsonl", tmp_path / "out", out_format="responses")
    assert (result.kept, result.pairs, len(list(read_groups(tmp_path / "out")))) == (1, 1, 1)
    found = {row["id"]: row["reason"] for row in rejects(tmp_path / "out")}
    assert result.rows == len(found) + 1
    for number, (row, reason) in enumerate(hostile):
        assert found[f"rows.jsonl:{number + 2}"] == reason, row
    assert found[f"rows.jsonl:{len(hostile) + 2}"] == "not_json"


def test_pairs_of_other_formats_become_groups_of_two(tmp_path: Path) -> None:
    file = write_json(tmp_path / "in.json", [{"prompt": "What?", "chosen": "A", "rejected": "B"}])
    convert(file, tmp_path / "plain", out_format="responses")
    with PairWriter(tmp_path / "pairs") as writer:
        writer.add(make_pair(1, scores={"chosen": 3.0, "rejected": -1.0}), make_pair(2, unfinished=True))
    result = convert(tmp_path / "pairs", tmp_path / "own", out_format="responses")
    scores = [[one.score for one in next(read_groups(tmp_path / name)).responses] for name in ("plain", "own")]
    assert scores == [[1.0, 0.0], [3.0, -1.0]] and result.quarantined == {"groups/unfinished": 1}


def test_groups_are_not_written_as_pairs(folder: Path, tmp_path: Path) -> None:
    file = write_lines(folder / "rows.jsonl", [ROW])
    with pytest.raises(UserError, match="groups of responses can't be written as mmpo") as found:
        convert(file, tmp_path / "out")
    assert found.value.hint == "--to responses" and not (tmp_path / "out").exists()
