"""The one loader for JSON and YAML that others wrote: everything that is refused names file and line."""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.outside import (
    MAX_DEPTH,
    Unreadable,
    json_of,
    naming,
    read_json,
    read_lines,
    read_map,
    read_rows,
    read_text,
    read_yaml,
    stream_list,
    yaml_of,
)


def deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", None, "empty"),
        ("  \n ", None, "empty"),
        ('{"a": 1,\n "b" 2}', 2, "not valid JSON"),
        ('{"a":\n1', 2, "not valid JSON"),
        ("\n" + deep(101), 2, "nested more than 100 deep"),
        (deep(900), 1, "nested more than 100 deep"),
        ("\n\n" + deep(200_000), 3, "nested more than 100 deep"),
        (deep(200_000, '{"a":', "}"), 1, "nested more than 100 deep"),
        ('["]]]]]]]]]]",' * 150 + "1" + "]" * 150, 1, "nested more than 100 deep"),
        ('{"n":\n' + "7" * 400 + "}", 2, r"the number 777777777777… \(400 characters\) is too large"),
        ("7" * 6000, 1, "too large"),
        ("[1, 18446744073709551616]", 1, "too large"),
        ("[-9223372036854775809]", 1, "too large"),
        ("[1,\n1e400]", 2, "the number 1e400 is too large"),
        ("[-1E+999]", 1, "too large"),
        ("7" * 400 + ".5", 1, "too large"),
        ("[\n-Infinity]", 2, "-Infinity is not a number"),
        ('{"id": "a",\n "t": "cut \\ud83d"}', 2, r"\\ud83d is half a character"),
        ('{"id\\uDE00": 1}', 1, r"\\ude00 is half a character"),
        ('["\\ud83d\\ud83d\\ude00"]', 1, "half a character"),
    ],
)
def test_json_is_refused_with_its_line(text: str, line: int | None, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem) as caught:
        json_of(text)
    assert caught.value.line == line
    with pytest.raises(Unreadable, match=problem):
        json_of(text.encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (deep(100), json.loads(deep(100))),
        ('{"id": "' + "7" * 400 + '"}', {"id": "7" * 400}),  # a name of digits is a name
        ("[18446744073709551615, -9223372036854775808]", [2**64 - 1, -(2**63)]),
        ("[0." + "3" * 60 + "]", [float("0." + "3" * 60)]),
        ("[1e300, 1e-400]", [1e300, 0.0]),
        ("[NaN]", [None]),
        ('"\\ud83d\\ude00 \\\\ud800"', "😀 \\ud800"),
        ("\ufeff[1]", [1]),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("[" * 50 + "]" * 50, json.loads("[" * 50 + "]" * 50)),
    ],
)
def test_json_is_read(text: str, value: Any) -> None:
    assert json_of(text) == value == json_of(text.encode())


def test_other_encodings(tmp_path: Path) -> None:
    assert json_of('{"a": "zwölf"}'.encode("utf-16")) == {"a": "zwölf"}
    with pytest.raises(Unreadable, match="not UTF-8 text") as caught:
        json_of(b'{"a": 1,\n"b": "\xe9"}')
    assert caught.value.line == 2
    with pytest.raises(Unreadable, match="not UTF-8"):
        json_of(b'"\xed\xa0\x80"')  # half a character in three bytes
    with pytest.raises(Unreadable, match="half a character"):
        json_of('"\ud800"')
    assert json_of('"\\ud800"', halves=True) == "\ud800"


def test_keys_given_twice() -> None:
    with pytest.raises(Unreadable, match="the key 'a' is given twice"):
        json_of('{"a": 1,\n "a": 2}', unique=True)
    assert json_of('{"a": {"b": 1}, "b": 2}', unique=True) == {"a": {"b": 1}, "b": 2}


def test_a_million_rows_cost_little_more_than_json_itself() -> None:
    """The checks look at bytes first: the data of a large file is walked only where something is suspicious."""
    line = json.dumps({"id": 12345, "text": "two dogs and a cat [sic]", "box": [1.5, 2.25, 100.0, 33.125]}).encode()
    calls = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for _ in range(100):
            json_of(line)
    finally:
        sys.setprofile(None)
    assert calls <= 100 * 15  # nothing is done for each character or each value


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for data in (b"[1]", b"\xef\xbb\xbf[1]", "[1]".encode("utf-16"), gzip.compress(b"[1]")):
        file.write_bytes(data)
        assert read_json(file) == [1]
        assert list(read_rows(file)) == [(1, [1])]
    file.write_bytes(b'[1]\n\n{"a": 1e999}\n')
    with pytest.raises(UserError, match=r"a\.json:3: the number 1e999 is too large\n  hint: "):
        list(read_rows(file))
    with pytest.raises(UserError, match=r"a\.json:3: not valid JSON \(Extra data\)"):
        read_json(file)
    with pytest.raises(UserError, match=r"b\.json does not exist"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "a\0.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "\ud800.json")
    with pytest.raises(UserError, match=r"a\.json: larger than 0 MiB"):
        read_text(file, 8)
    assert [number for number, _ in read_lines(file)] == [1, 3]


def test_a_packed_file_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.json"
    file.write_bytes(gzip.compress(b" " * (80 << 20), compresslevel=9))
    started = time.process_time()
    with pytest.raises(UserError, match=r"bomb\.json: unpacks to more than 64 MiB"):
        read_json(file)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"a": 1}, ' + deep(5000) + "]", "list.json:#2: lists and maps are nested"),
        ('[{"a": 1}, {"b": ' + "9" * 400 + "}]", "list.json:#2: the number"),
        ('[{"a": "\\ud800"}]', "list.json:#1: .* half a character"),
        ('[{"a": 1}, {"b"', "list.json:1: not valid JSON"),
        ("[1, \udce9]", "not UTF-8 text"),
        ('[{"a": 1} {"a": 2}]', "list.json:1: not valid JSON .*delimiter"),
        ("[1,, 2]", "list.json:1: not valid JSON"),
        ("[1, 2,]", "list.json:1: not valid JSON"),
        ("[, 1]", "list.json:1: not valid JSON"),
        ("[1]\n[2]\n", "list.json:2: not valid JSON .Extra data"),
        ("[1, 2", "list.json:1: not valid JSON"),
        ('[{"a": 1}', "list.json:1: not valid JSON"),
        ("[", "list.json:1: not valid JSON"),
        ('{"a": 1}', "expected a JSON list"),
    ],
)
def test_streamed_lists_have_the_same_limits(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "list.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=problem):
        list(stream_list(file))


DOUBLING = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGING = "a0: &a0 {x0: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
CHAIN = "a0: &a0 [" + "[" * 60 + "]" * 60 + "]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: " + deep(101), 2, "nested more than 100 deep"),
        ("- " * 5000 + "a", 1, "nested more than 100 deep"),
        ("[" * 100_000, 1, "nested more than 100 deep"),
        ("a: &a [*a]", 1, "inside its own anchor"),
        ("a: &a\n  b:\n    c: *a", 1, "inside its own anchor"),
        (DOUBLING, 15, "aliases .* make more than 100,000 values"),
        (MERGING, None, "aliases .* make more than 100,000 values"),
        (CHAIN, None, "aliases .* nest more than 100 deep"),
        ("a: 1\nb: " + "7" * 400, 2, r"the number 777777777777… \(400 characters\) is too large"),
        ("a: " + "7" * 5000, 1, "too large"),
        ("a: 1.5e+999", 1, "too large"),
        ('a: "\\ud800"', 1, "half a character"),
        ("a: 1\nb: 2\na: 3", 3, r"a is given twice \(first in line 1\)"),
        ("a: [", 1, "not valid YAML"),
        ("a:\n\tb: 1", 2, "a tab; YAML is indented with spaces"),
        ("a: *b", 1, "not valid YAML: found undefined alias"),
        ("a: 2001-99-99", None, "not valid YAML"),
        ("a: !!int x", None, "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", 1, "could not determine a constructor"),
        ("? [a]\n: 1", 1, "not valid YAML"),
        ("a\x00b", 1, "the character 0x0 is not allowed"),
        ("x, " * 3_000_000, None, "more than 4 MiB"),
    ],
)
def test_yaml_is_refused_with_its_line(text: str, line: int | None, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem) as caught:
        yaml_of(text)
    assert line is None or caught.value.line == line


def test_yaml_is_read(tmp_path: Path) -> None:
    text = "base: &base {lr: 1.0e-4, steps: 10}\nmore:\n  <<: *base\n  steps: 20\nwords: [1_000, .inf, 'no', ü]\n"
    value = {
        "base": {"lr": 1e-4, "steps": 10},
        "more": {"lr": 1e-4, "steps": 20},
        "words": [1000, float("inf"), "no", "ü"],
    }
    assert yaml_of(text) == value
    assert yaml_of("") is None
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode("utf-16"))
    assert read_yaml(file) == value == read_map(file)
    file.write_text("a: 1\n\nb: [")
    with pytest.raises(UserError, match=r"a\.yaml:3: not valid YAML"):
        read_map(file)


def test_whatever_else_fails_names_the_file(tmp_path: Path) -> None:
    def endless(value: list[Any]) -> None:
        endless([value])

    with (
        pytest.raises(UserError, match=r"x\.bin: cannot be read as weights \(RecursionError") as caught,
        naming("x.bin", "weights"),
    ):
        endless([])
    assert isinstance(caught.value.__cause__, RecursionError)  # MMPO_DEBUG=1 shows the trace
    with pytest.raises(UserError, match=r"^other"), naming("x.bin"):
        raise UserError("other")
    with pytest.raises(KeyboardInterrupt), naming("x.bin"):
        raise KeyboardInterrupt
    assert MAX_DEPTH == 100
