"""The question and answer files of benchmarks: JSON Lines, JSON arrays, gzip, a byte-order mark; errors name file and
line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.files.atomic import write_text
from mmpo.outside import Unreadable, json_of, read_text


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
            record = json_of(line)
        except Unreadable as error:
            if error.problem.startswith("not valid JSON"):
                last = number == text.count("\n") + 1
                cut = "the last line looks cut off; was the writer stopped?"
                error.hint = cut if last else "each line must be one JSON object"
            raise error.at(f"{path}:{number}", lines=False) from None
        yield f"{path}:{number}", _object(record, f"{path}:{number}")


def _array(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = json_of(text)
    except Unreadable as error:
        raise error.at(str(path)) from None
    for number, record in enumerate(records, start=1):
        yield f"{path}:#{number}", _object(record, f"{path}:#{number}")


def _object(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def write_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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
