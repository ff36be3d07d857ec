"""The rows of any file or folder that preference data is published in, one after another.

JSON arrays (and objects keyed by an id) are held in memory while they are read; JSON Lines, Parquet and Arrow files are
streamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.errors import Quarantined, UserError
from mmpo.outside import Unreadable, json_of, naming, read_text, readable_rows

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
TEXT_SUFFIXES = (".txt", ".tsv", ".csv", ".xlsx")
# Files beside the rows: descriptions of data sets, annotations, our own accounts.
NOT_ROWS = re.compile(
    r"card|convert|dataset_infos?|dataset_dict|state|image_data|region_descriptions|objects|config|rejects(\..+)?"
)
IMAGE_NAME = re.compile(r".*\d.*|.*\.\w{3,4}")  # its number, or its file's name
SPLITS = ("train", "validation", "valid", "val", "dev", "test")
BATCH = 32  # rows with pictures in them that are decoded together


class NotRowsError(UserError):
    """A JSON file that holds something else than rows."""


@dataclass(frozen=True)
class Row:
    """One row. `place` names file and row (`pope_data.json:17`): from 0 in a table or an array, the line in JSON Lines.
    `key` is an id for rows without one; `error` says why there is no `data`."""

    place: str
    key: str
    data: Any
    error: Quarantined | None = None


def read_rows(path: str | Path, split: str = "train") -> Iterator[Row]:
    """Every row of a file, or of the files of one split in a folder, in a fixed order. UserError if there are none, or
    a file is broken as a whole."""
    for _, rows in read_files(path, split):
        yield from rows


def read_files(path: str | Path, split: str = "train") -> Iterator[tuple[str, Iterator[Row]]]:
    """The files of `read_rows`, each with its name (below the folder) and its rows."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = row_files(path, split) if path.is_dir() else [path]
    base = path if path.is_dir() else path.parent
    for file in files:
        name = file.relative_to(base).as_posix()
        yield name, _READERS[_kind(file)](file, name)


def row_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that hold rows of `split`. A file whose name gives no split counts as train."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in SUFFIXES and file.is_file() and not NOT_ROWS.fullmatch(file.stem)
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise UserError(f"{folder}: no {', '.join(SUFFIXES)} file with rows in it")
    chosen = [file for file in files if split_of(file, folder) == split]
    if not chosen:
        others = ", ".join(sorted({split_of(file, folder) for file in files}))
        raise UserError(f"{folder}: no rows of the split {split!r}", hint=f"it has: {others} (--split)")
    return chosen


def split_of(file: Path, folder: Path) -> str:
    """The split in a file's name (`train-00000-of-00003.parquet`, `test/data.json`); train where there is none."""
    stem = re.sub(r"-\d{5}(-of-\d{5})?$", "", file.stem)
    ours = stem != file.stem and file.parent == folder / "data" and stem != "data"  # any word may name a split there
    if stem in SPLITS or ours:
        return stem
    return file.parent.name if file.parent != folder and file.parent.name in SPLITS else "train"


def _kind(file: Path) -> str:
    if file.suffix in TEXT_SUFFIXES:
        raise UserError(
            f"{file}: a table of text, in which benchmarks keep questions and answers; it has no rejected answer",
            hint=f"preference data is read from {', '.join(SUFFIXES)}",
        )
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file}: not a {', '.join(SUFFIXES)} file", hint="give the data file, or the folder it is in")
    return file.suffix


def _parquet(file: Path, name: str) -> Iterator[Row]:
    with naming(file, "Parquet"), pq.ParquetFile(file) as table:
        yield from _batches(table.iter_batches(batch_size=BATCH), file, name)


def _arrow(file: Path, name: str) -> Iterator[Row]:
    """The rows of a file that `Dataset.save_to_disk` wrote."""
    with naming(file, "Arrow"), pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        pieces = (batch.slice(i, BATCH) for batch in stream for i in range(0, batch.num_rows, BATCH))
        yield from _batches(pieces, file, name)


def _batches(batches: Iterator[pa.RecordBatch], file: Path, name: str) -> Iterator[Row]:
    number = 0
    for batch in batches:
        decoders = _decoders(batch.schema)
        for data in batch.to_pylist():
            place, key = f"{name}:{number}", f"{file.stem}-{number}"
            number += 1
            column = ""
            try:
                for column, decode in decoders.items():
                    data[column] = decode(data[column])
            except ValueError as error:
                yield Row(place, key, None, Quarantined("convert", "not_json", f"`{column}`: {error}"))
            else:
                yield Row(place, key, data)


def _decoders(schema: pa.Schema) -> dict[str, Callable[[Any], Any]]:
    """The columns in which `datasets` (5.2) keeps objects as JSON texts, its feature `Json`, here or within others."""
    try:
        features = json_of((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        features = {}
    found = {field.name: _decoder(field, _within(features, field.name)) for field in schema}
    return {name: decode for name, decode in found.items() if decode is not None}


def _decoder(field: pa.Field, feature: Any) -> Callable[[Any], Any] | None:
    kind = field.type
    stored = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode()
    if "arrow.json" in (getattr(kind, "extension_name", ""), stored) or _within(feature, "_type") == "Json":
        return lambda text: json_of(text) if isinstance(text, (str, bytes)) else text
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = feature[0] if isinstance(feature, list) and feature else _within(feature, "feature")
        item = _decoder(kind.value_field, inner)
        return item and (lambda values: values and [item(value) for value in values])
    if pa.types.is_struct(kind):
        parts = {part.name: _decoder(part, _within(feature, part.name)) for part in kind}
        named = {name: decode for name, decode in parts.items() if decode is not None}
        return (lambda value: value and {**value, **{n: d(value[n]) for n, d in named.items()}}) if named else None
    return None


def _within(feature: Any, name: str) -> Any:
    return feature.get(name) if isinstance(feature, dict) else None


def _json(file: Path, name: str) -> Iterator[Row]:
    text = read_text(file)
    try:
        content = json_of(text)
    except Unreadable as error:
        if "Extra data" in error.problem and text.lstrip().startswith("{"):  # JSON Lines under another name
            yield from _lines(file, name)
            return
        raise error.at(str(file)) from None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]  # as caption files have it
    if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        content = [{"image_id": key, **value} for key, value in content.items()]  # an object keyed by image
    if isinstance(content, dict) and content and all(map(_is_image_s, content.items())):  # several rows an image
        content = [
            {"image_id": key, **row} if isinstance(row, dict) else row for key, rows in content.items() for row in rows
        ]
    if not isinstance(content, list):
        raise NotRowsError(f"{file}: expected a list of rows, or an object of them by id")
    for number, data in enumerate(content):
        yield _row(data, f"{name}:{number}", f"{file.stem}-{number}")


def _is_image_s(item: tuple[str, Any]) -> bool:
    return isinstance(item[1], list) and IMAGE_NAME.fullmatch(item[0]) is not None


def _lines(file: Path, name: str) -> Iterator[Row]:
    for number, data in readable_rows(file):
        place, key = f"{name}:{number}", f"{file.stem}-{number}"
        if isinstance(data, Unreadable):
            yield Row(place, key, None, Quarantined("convert", "not_json", data.problem))
        else:
            yield _row(data, place, key)


def _row(data: Any, place: str, key: str) -> Row:
    if isinstance(data, dict):
        return Row(place, key, data)
    return Row(place, key, None, Quarantined("convert", "not_an_object", f"the row is a {type(data).__name__}"))


_READERS = {".parquet": _parquet, ".arrow": _arrow, ".jsonl": _lines, ".json": _json}
