"""Files that are whole or absent, and logs that survive a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.files import atomic


def test_write_replaces_whole_files_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    atomic.write_json(path, {"b": 1, "a": "é"})
    assert path.read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
    atomic.write_text(path, "short")
    assert path.read_text() == "short"
    assert os.listdir(path.parent) == ["a.json"]


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "old")

    def no_space(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_half_a_character_is_kept(tmp_path: Path) -> None:
    """A path in a foreign JSON file may hold one; the row that reports it must not fail over it."""
    row = {"id": "ü\ud800.png"}
    with atomic.JsonLines(tmp_path / "log.jsonl") as log:
        log.append(row)
    assert list(atomic.read_jsonl(tmp_path / "log.jsonl")) == [row]
    assert atomic.read_json(atomic.write_json(tmp_path / "a.json", row)) == row


def test_read_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="no such file"):
        atomic.read_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        atomic.read_json(path)


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.tmp").write_text("half")
    (tmp_path / "mine.tmp").write_text("kept")
    atomic.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["mine.tmp"]


@pytest.mark.parametrize("half", [b'{"n": 2', b'{"n": 2}', b"\xff\xfe"])
def test_log_goes_on_behind_the_last_whole_line(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n' + half)
    assert [row["n"] for row in atomic.read_jsonl(path)] == [0, 1]
    with atomic.JsonLines(path) as log:
        assert log.rows == 2
        log.append({"n": 2, "text": "ü\nü"})
        assert log.rows == 3
    assert [row["n"] for row in atomic.read_jsonl(path)] == [0, 1, 2]
    assert [json.loads(line) for line in path.read_text().splitlines()][2]["text"] == "ü\nü"


def test_truncate_then_append(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with atomic.JsonLines(path) as log:
        for n in range(5):
            log.append({"n": n})
        log.truncate(2)
        log.append({"n": 9})
        assert log.rows == 3
        log.truncate(7)  # more than there are: nothing happens
    assert [row["n"] for row in atomic.read_jsonl(path)] == [0, 1, 9]


def test_bad_line_inside_a_log_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 0}\nnot json\n{"n": 1}\n')
    with pytest.raises(UserError, match=r"log.jsonl:2: not valid JSON"):
        list(atomic.read_jsonl(path))
    with pytest.raises(UserError, match="no such file"):
        list(atomic.read_jsonl(tmp_path / "none.jsonl"))
    assert atomic.cut_half_line(tmp_path / "none.jsonl") == 0
