"""Reading published question and answer files, with everything that can be wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mmpo.data.records import read_records, read_table, text_of
from mmpo.errors import UserError

ROWS = [{"a": 1}, {"a": "zwölf"}]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    "data",
    [
        lines(ROWS).encode(),
        lines(ROWS).rstrip("\n").encode(),
        lines(ROWS).replace("\n", "\r\n").encode(),
        ("\n" + lines(ROWS) + "\n\n").encode(),
        b"\xef\xbb\xbf" + lines(ROWS).encode(),
        lines(ROWS).encode("utf-16"),
        gzip.compress(lines(ROWS).encode()),
        json.dumps(ROWS, indent=2).encode(),
        json.dumps(ROWS).encode("utf-8-sig"),
    ],
    ids=[
        "lines",
        "no final newline",
        "windows",
        "blank lines",
        "byte-order mark",
        "utf-16",
        "gzip",
        "array",
        "array with mark",
    ],
)
def test_forms(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    assert [row for _, row in read_records(path)] == ROWS


def test_line_separators_inside_a_text_are_no_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"a": "one\u2028two"}\n{"a": 2}\n', encoding="utf-8")
    assert [where for where, _ in read_records(path)] == [f"{path}:1", f"{path}:2"]


def test_array_entries_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(ROWS))
    assert [where for where, _ in read_records(path)] == [f"{path}:#1", f"{path}:#2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file.json is empty"),
        (b" \n\n", "file.json is empty"),
        (b'{"a": 1}\n{"a": ', r"file.json:2: not valid JSON .*\n  hint: the last line looks cut off"),
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', r"file.json:2: not valid JSON .*\n  hint: each line must be one JSON object"),
        (b'{"a": 1}\n[1]\n', "file.json:2: expected a JSON object, found list"),
        (b'[{"a": 1}, 2]', "file.json:#2: expected a JSON object, found int"),
        (b'[\n{"a": 1},\n{"b" 2}]', "file.json:3: not valid JSON"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "file.json:2: not UTF-8 text"),
        (gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-12], "file.json cannot be read"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(read_records(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        list(read_records(tmp_path / "nowhere.json"))


def test_text_of() -> None:
    assert text_of({"text": "x", "answer": ""}, ("answer", "text"), "f:1") == ""
    with pytest.raises(UserError, match="f:1: no `answer`; the record has `id`"):
        text_of({"id": 1}, ("answer", "text"), "f:1")
    with pytest.raises(UserError, match="f:1: `answer` must be text, found null"):
        text_of({"answer": None}, ("answer",), "f:1")


def test_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffid,text\n1,"two, of\nthem"\n2\n', encoding="utf-8")
    assert list(read_table(path)) == [
        (f"{path}:3", {"id": "1", "text": "two, of\nthem"}),
        (f"{path}:4", {"id": "2", "text": ""}),
    ]
    path.write_text("id\ttext\n1\ta, b\n")
    assert [row for _, row in read_table(path)] == [{"id": "1", "text": "a, b"}]
    for text in ("", "id,text\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="no rows"):
            list(read_table(path))
    path.write_text("id,text\n1," + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match="cannot be read as a table"):
        list(read_table(path))
