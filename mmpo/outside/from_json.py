"""JSON and JSON Lines within limits. What costs time is done only where the bytes give a reason for it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmpo.errors import UserError
from mmpo.outside.failures import Unreadable
from mmpo.outside.limits import HALVES, INTEGERS, MAX_DEPTH, MAX_FILE, MAX_LINE, half, too_deep, too_long
from mmpo.outside.text import bytes_of, decode, first_bytes, open_text, read_lines

BLOCK = 1 << 20


def read_json(path: str | Path, *, unique: bool = False) -> Any:
    """The value of a JSON file. UserError with file and line; `unique` refuses a key that is given twice."""
    path = Path(path)
    try:
        return json_of(bytes_of(path, MAX_FILE), unique=unique)
    except Unreadable as error:
        raise error.at(str(path)) from None
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory", hint="split the file") from None


def read_rows(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, Any]]:
    """(line, value) of a JSON Lines file, blank lines left out. UserError with file and line, and for a file of more
    than `limit` bytes."""
    for number, value in readable_rows(path, limit):
        if isinstance(value, Unreadable):
            raise value.at(f"{path}:{number}", lines=False) from None
        yield number, value


def readable_rows(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, Any]]:
    """`read_rows` that continues behind a bad line, whose value is an Unreadable."""
    for number, line in read_lines(path, limit):
        try:
            yield number, json_of(line)
        except Unreadable as error:
            if error.problem.startswith("not valid JSON"):
                last = not line.endswith(b"\n")
                cut = "the last line looks cut off; was the writer stopped?"
                error.hint = cut if last else "each line must be one JSON object"
            yield number, error


def begins_with_list(path: str | Path) -> bool:
    """True if a file begins like a JSON list; of a plain one nothing but the first kilobyte is read."""
    return first_bytes(path, 1024).lstrip().startswith(b"[")


def stream_list(path: str | Path) -> Iterator[Any]:
    """The items of a JSON file that holds one list, without the whole file in memory (VG's regions are 700 MB; UTF-16
    and gzip: all of it)."""
    path = Path(path)
    number, decoder = 1, _decoder(False, False)
    with open_text(path) as file:
        rest = _Rest(file)
        try:
            if rest.next() != "[":
                raise UserError(f"{path}: expected a JSON list")
            rest.drop(1)
            while rest.next() != "]":
                if number > 1:  # every item but the first is behind a comma
                    if rest.next() not in (",", ""):
                        raise rest.bad(path, "Expecting ',' delimiter")
                    rest.drop(1)
                    rest.next()
                while True:
                    try:
                        item, end = decoder.raw_decode(rest.text)
                        if end == len(rest.text):  # a number may go on in the next block
                            raise json.JSONDecodeError("unfinished", rest.text, end)
                        break
                    except json.JSONDecodeError as error:
                        if not rest.more():
                            raise rest.bad(path, error.msg, error.pos) from None
                data = rest.text[:end].encode("utf-8", "surrogatepass")
                yield json_of(data) if _has_long_numbers(data) else _checked(item, data)
                rest.drop(end)
                number += 1
            rest.drop(1)
            if rest.next():
                raise rest.bad(path, "Extra data behind the list")
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from None
        except RecursionError:
            raise _too_deep(rest.text.encode()).at(f"{path}:#{number}", lines=False) from None
        except Unreadable as error:
            raise error.at(f"{path}:#{number}", lines=False) from None


class _Rest:
    """The rest of a file that is read block by block. `line` is the line on which `text` begins."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.line = file, "", 1

    def drop(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]

    def next(self) -> str:
        """The first character that is not blank, to which everything before it is dropped; none at the end."""
        while True:
            self.drop(len(self.text) - len(self.text.lstrip(" \n\r\t")))
            if self.text or not self.more():
                return self.text[:1]

    def more(self) -> bool:
        """Read on, if there is more and an item can be as long."""
        block = self.file.read(max(BLOCK, len(self.text))) if len(self.text) <= MAX_LINE else ""
        self.text += block
        return bool(block)

    def bad(self, path: Path, problem: str, place: int = 0) -> UserError:
        line = self.line + self.text.count("\n", 0, place)
        return UserError(f"{path}:{line}: not valid JSON ({problem})", hint="is the file whole?")


def json_of(text: bytes | str, *, unique: bool = False, halves: bool = False) -> Any:
    """The value of a JSON text. Raises Unreadable. `halves` lets half characters pass, which our own files may hold."""
    if isinstance(text, str):
        try:
            data = text.encode("utf-8", "surrogatepass" if halves else "strict")
        except UnicodeEncodeError as error:
            raise half(text[error.start], text.count("\n", 0, error.start) + 1) from None
        text = text.removeprefix("\ufeff")
    else:
        data, text = text, decode(text)
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            data = text.encode("utf-8", "surrogatepass")
    try:
        value = _decoder(_has_long_numbers(data), unique).decode(text)
    except RecursionError:
        raise _too_deep(data) from None
    except _Literal as error:
        raise Unreadable(error.problem, line=_line_of(data, error.literal), hint=error.hint) from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise Unreadable("empty", hint="was the writer stopped?") from None
        raise Unreadable(f"not valid JSON ({error.msg})", line=error.lineno, hint=_cut(text, error.pos)) from None
    return _checked(value, data, halves)


def _checked(value: Any, data: bytes, halves: bool = False) -> Any:
    """The value of the JSON text `data`, if it is not too deep and holds no half characters; else Unreadable."""
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise _too_deep(data)
    if not halves and (b"\\ud" in data or b"\\uD" in data):
        _refuse_halves(value, data)
    return value


@functools.cache
def _decoder(every_number: bool, unique: bool) -> json.JSONDecoder:
    hooks: dict[str, Any] = {"parse_int": _integer, "parse_float": _float} if every_number else {}
    return json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_once if unique else None, **hooks)


def _cut(text: str, position: int) -> str | None:
    return "it looks cut off; was the writer stopped?" if not text[position + 1 :].strip() else None


_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = (b"0" * 19, b"0e000", b"0E000", b"0e+000", b"0E+000")
_BLOCK = 64 << 20


def _has_long_numbers(data: bytes) -> bool:
    """True if there may be a number that 64 bits don't hold: only then is every number checked, which is slow."""
    for start in range(0, len(data), _BLOCK):
        digits = data[max(0, start - 32) : start + _BLOCK].translate(_ZEROS)
        if any(needle in digits for needle in _LONG):
            return True
    return False


class _Literal(Unreadable):
    """Unreadable for the sake of one piece of the text."""

    def __init__(self, literal: str, problem: str, hint: str) -> None:
        super().__init__(problem, hint=hint)
        self.literal = literal


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else None
    if value is None or value not in INTEGERS:
        raise _Literal(digits, *too_long(digits))
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Literal(digits, *too_long(digits))
    return value


def _constant(name: str) -> None:
    if name != "NaN":
        raise _Literal(name, f"{name} is not a number that can be used", "write a number, or null")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Literal(json.dumps(key, ensure_ascii=False), f"the key {key!r} is given twice", "keep one of them")
        found[key] = value
    return found


def _line_of(data: bytes, text: str) -> int | None:
    place = data.find(text.encode("utf-8", "surrogatepass"))
    return data.count(b"\n", 0, place) + 1 if place >= 0 else None


_NESTED = (dict, list)


def _deeper(value: Any, limit: int) -> bool:
    """True if lists and maps are nested more than `limit` deep. Level by level: nothing here can recurse."""
    level = [value] if type(value) in _NESTED else []
    for _ in range(limit):
        level = [
            item
            for whole in level
            for item in (whole.values() if type(whole) is dict else whole)
            if type(item) in _NESTED
        ]
        if not level:
            return False
    return True


_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def _too_deep(data: bytes) -> Unreadable:
    depth, line = 0, None
    for token in _TOKENS.finditer(data):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token.group(), 0)
        if depth > MAX_DEPTH:
            line = data.count(b"\n", 0, token.start()) + 1
            break
    return too_deep(line)


_ESCAPED_HALF = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|"
    rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def _refuse_halves(value: Any, data: bytes) -> None:
    """Unreadable if any text or key below `value` (at most MAX_DEPTH deep) holds half a surrogate pair."""
    if isinstance(value, str):
        if found := HALVES.search(value):
            place = _ESCAPED_HALF.search(data)
            raise half(found.group(), data.count(b"\n", 0, place.start()) + 1 if place else None)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_halves(key, data)
            _refuse_halves(item, data)
    elif isinstance(value, list):
        for item in value:
            _refuse_halves(item, data)
