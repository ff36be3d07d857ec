"""Records that others wrote: objects in JSON Lines or one JSON list, plain, gzip or UTF-16, or the rows of a table.
Errors name the place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.files.atomic import write_text
from mmpo.outside import MAX_FILE, begins_with_list, naming, read_rows, read_text, stream_list


def read_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of a file that is JSON Lines or one JSON list of objects, one in memory at a time; `where`
    is `FILE:LINE` (`FILE:#N` in a list, from 1).

    Blank lines are skipped. Raises UserError for a file that is missing or empty and for a line that is not a JSON
    object, also a half-written last one.
    """
    where = None
    if begins_with_list(path):
        where = ""
        rows = ((f"{path}:#{number}", row) for number, row in enumerate(stream_list(path), start=1))
    else:
        rows = ((f"{path}:{number}", row) for number, row in read_rows(path, MAX_FILE))
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield where, row
    if where is None:
        raise UserError(f"{path} is empty")


def read_table(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of a table with a line of column names, separated by commas, or by tabs where that line has
    one; `where` is `FILE:LINE`, the last line of the row. Raises UserError for a file without rows.
    """
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    with naming(path, "a table"):
        for row in reader:
            yield f"{path}:{reader.line_num}", {key: value or "" for key, value in row.items() if key is not None}
    if reader.line_num < 2:
        raise UserError(f"{path} holds no rows")


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
