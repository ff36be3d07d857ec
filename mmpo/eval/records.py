"""Reading the question and answer files of benchmarks: JSON Lines, JSON arrays, gzip, a byte-order mark; errors name
file and line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpo.errors import UserError


def read_text(path: Path) -> str:
    """The file as text: UTF-8 with or without a byte-order mark, UTF-16 with one, gzip by its first bytes. Raises
    UserError naming the bad line.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not {encoding.removesuffix('-sig').upper()} text", hint="save the file as UTF-8"
        ) from None


def read_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of a file that is JSON Lines or one JSON array of objects; `where` is `FILE:LINE`
    (`FILE:#N` in an array).

    Blank lines are skipped. Raises UserError for a file that is missing or empty and for a line that is not a JSON
    object, also a half-written last one.
    """
    path = Path(path)
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path} is empty")
    if text.lstrip().startswith("["):
        yield from _array(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            last = number == text.count("\n") + 1
            hint = (
                "the last line looks cut off; was the writer stopped?" if last else "each line must be one JSON object"
            )
            raise UserError(f"{path}:{number}: not JSON ({error.msg})", hint=hint) from None
        yield f"{path}:{number}", _object(record, f"{path}:{number}")


def _array(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    for number, record in enumerate(records, start=1):
        yield f"{path}:#{number}", _object(record, f"{path}:#{number}")


def _object(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def text_of(record: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    """The first of `keys` that the record has, as text. Raises UserError where none is there or the value is not
    text.
    """
    for key in keys:
        if key in record:
            value = record[key]
            if not isinstance(value, str):
                found = "null" if value is None else type(value).__name__
                raise UserError(f"{where}: `{key}` must be text, found {found}")
            return value
    raise UserError(f"{where}: no `{keys[0]}`; the record has {', '.join(f'`{key}`' for key in record) or 'no keys'}")
