"""Reading a folder of preference pairs, or of groups of responses, in order or by number. Its content is described in
shards.py."""

from __future__ import annotations

import bisect
import shlex
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.pair import PreferencePair, validate
from mmpo.data.responses import ResponseGroup, validate_group
from mmpo.data.rows import from_row, group_from_row, pair_schema
from mmpo.errors import UserError
from mmpo.files.atomic import file_digest, read_json
from mmpo.outside.failures import FAILURES

ROW_GROUP = 32  # rows that are decoded together: small, so that reading one row at random stays cheap
TABLES, TEXTS = (".parquet", ".arrow"), (".jsonl", ".json")  # what `mmpo convert` reads
PAIRS, RESPONSES = "mmpo-pairs/1", "mmpo-responses/1"
"""Formats of a folder, as its card names them. Shards of all but pairs name theirs in their metadata."""
FORMAT_KEY = b"mmpo.format"
T = TypeVar("T")


class PairDataset(Sequence[PreferencePair]):
    """The pairs of a folder by number, in any order, without holding them in memory.

    Rows are decoded a row group at a time and the last few groups are kept. Not for several threads at once; a worker
    process that gets a copy opens the files for itself. `keep_open` leaves the last file open, which is quicker where
    rows are read in order, and not for worker processes.
    """

    KEPT_GROUPS = 8

    def __init__(self, folder: str | Path, split: str = "train", *, keep_open: bool = False) -> None:
        self.folder, self.split, self._keep_open = Path(folder), split, keep_open
        self._opened: tuple[Path, pq.ParquetFile] | None = None
        self._groups: list[tuple[Path, int, int]] = []  # file, number of the group, its first row in the file
        self._ends: list[int] = []
        total = 0
        for path in _existing_shards(self.folder, split):
            with open_shard(path) as file:
                first = 0
                for number in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(number).num_rows
                    self._groups.append((path, number, first))
                    first, total = first + rows, total + rows
                    self._ends.append(total)
        self._cache: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> list[PreferencePair]: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | list[PreferencePair]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        group = bisect.bisect_right(self._ends, row)
        offset = row - (self._ends[group - 1] if group else 0)
        path, _, first = self._groups[group]
        where = f"{path}:{first + offset}"
        return validate(from_row(self._rows(group)[offset], where), where)

    def _rows(self, group: int) -> list[dict[str, Any]]:
        if group not in self._cache:
            path, number, _ = self._groups[group]
            with self._file(path) as file:
                self._cache[group] = _read(lambda: file.read_row_group(number).to_pylist(), path)
            if len(self._cache) > self.KEPT_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]

    def _file(self, path: Path) -> AbstractContextManager[pq.ParquetFile]:
        if not self._keep_open:
            return open_shard(path)
        if self._opened is None or self._opened[0] != path:
            if self._opened is not None:
                self._opened[1].close()
            self._opened = path, open_shard(path)
        return nullcontext(self._opened[1])


def read_pairs(folder: str | Path, split: str = "train") -> Iterator[PreferencePair]:
    """Every pair of a split in order, checked, a few rows in memory at a time. UserError names the file and the row.

    A row counts from 0 within its file. Shards that others wrote with the same columns are read too.
    """
    for cells, where in read_cells(Path(folder), split):
        yield validate(from_row(cells, where), where)


def read_groups(folder: str | Path, split: str = "train") -> Iterator[ResponseGroup]:
    """Every group of responses of a split, as `read_pairs` reads pairs."""
    for cells, where in read_cells(Path(folder), split, RESPONSES):
        yield validate_group(group_from_row(cells, where), where)


def read_scores(folder: str | Path, split: str = "train") -> Iterator[tuple[str, dict[str, float] | None]]:
    """Id and scores of every pair of a split, in order; nothing else of the files is read."""
    for cells, where in read_cells(Path(folder), split, columns=("id", "scores")):
        scores = cells.get("scores")
        found = None if scores is None else {name: value for name, value in scores.items() if value is not None}
        yield cells.get("id") or where, found


def read_cells(
    folder: Path, split: str = "train", format: str = PAIRS, columns: Collection[str] | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a split as it is stored, with its file and number; of the `columns` named those that are there,
    all where a file has none of them."""
    written = _digests(folder)
    for path in _existing_shards(folder, split, format):
        with open_shard(path) as file:
            if written.get(path.name) not in (None, file_digest(path)):
                raise UserError(
                    f"{path}: damaged or changed: its content is another one than card.json says",
                    hint=f"delete {path} and build again; if you changed it yourself, delete card.json",
                )
            names = None if columns is None else [one for one in file.schema_arrow.names if one in columns]
            batches = file.iter_batches(batch_size=ROW_GROUP, columns=names or None)
            row = 0
            while (batch := _read(lambda: next(batches, None), path)) is not None:  # noqa: B023 - called at once
                for cells in batch.to_pylist():
                    yield cells, f"{path}:{row}"
                    row += 1


def count_pairs(folder: str | Path, split: str = "train") -> int:
    """The number of pairs, from the files' footers; UserError for a folder without the split."""
    _existing_shards(Path(folder), split)
    return count_rows(folder, split)


def count_rows(folder: str | Path, split: str = "train") -> int:
    """The number of rows in the shards of a split, whatever they hold."""
    total = 0
    for path in shard_paths(Path(folder), split):
        with open_shard(path) as file:
            total += file.metadata.num_rows
    return total


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / "data" / f"{split}-{number:05d}.parquet"


def shard_paths(folder: Path, split: str) -> list[Path]:
    return sorted((folder / "data").glob(f"{split}-*.parquet"))


def _digests(folder: Path) -> dict[str, str]:
    """Digests of the shards, as the card of a finished dataset has them."""
    card = read_json(folder / "card.json") if (folder / "card.json").exists() else {}
    files = card.get("files") if isinstance(card, dict) else None
    return {Path(name).name: digest for name, digest in files.items()} if isinstance(files, dict) else {}


def check_pairs(folder: str | Path, split: str = "train") -> None:
    """UserError unless the folder holds pairs as mmpo writes them; for a folder (or a file) in the layout of TRL or
    `datasets`, or another that `mmpo convert` may know, it names the command that converts it."""
    folder = Path(folder)
    for path in _existing_shards(folder, split):
        with open_shard(path) as file:
            if "provenance" not in file.schema_arrow.names:
                raise _foreign(folder, split, f"data/{path.name} is a table of another layout")


def holds_groups(folder: str | Path, split: str = "train") -> bool:
    """True for a folder of groups of responses."""
    paths = shard_paths(Path(folder), split)
    if not paths:
        return False
    with open_shard(paths[0]) as file:
        return format_of(file.schema_arrow) == RESPONSES


def format_of(schema: pa.Schema) -> str:
    """The format of a shard; those of pairs need not name it."""
    return (schema.metadata or {}).get(FORMAT_KEY, PAIRS.encode()).decode(errors="replace")


def check_format(schema: pa.Schema, format: str, where: Path) -> None:
    """UserError for a shard of another format than `format`."""
    found = format_of(schema)
    if found == format:
        return
    if found == RESPONSES:
        raise UserError(f"{where}: holds groups of responses, not pairs", hint="give it as train.groups.data")
    wanted = "groups of responses" if format == RESPONSES else "pairs"
    what = "pairs" if found == PAIRS else found
    raise UserError(f"{where}: holds {what}, not {wanted}", hint="mmpo convert IN OUT --to responses makes groups")


def _existing_shards(folder: Path, split: str, format: str = PAIRS) -> list[Path]:
    """The split's shards. UserError if there are none, or if others wrote them with columns of which `from_row` knows
    nothing, such as `image`."""
    paths = shard_paths(folder, split)
    if not paths and format == RESPONSES:
        raise UserError(
            f"{folder}: no groups of responses of the split {split!r} (data/{split}-*.parquet)",
            hint="mmpo convert IN OUT --to responses makes them",
        )
    if not paths:
        if found := _of_others(folder):
            raise _foreign(folder, split, found)
        raise UserError(f"{folder}: no pairs of the split {split!r} (data/{split}-*.parquet)", hint="build it first")
    with open_shard(paths[0]) as file:
        columns = set(file.schema_arrow.names)
        check_format(file.schema_arrow, format, folder)
    if "provenance" not in columns and not columns <= {*pair_schema(("any",)).names}:
        raise _foreign(folder, split, f"data/{paths[0].name} is a table of another layout")
    return paths


def check_pages(file: pq.ParquetFile, path: Path) -> None:
    """Read all of a shard, so that a flipped bit in it is noticed (its pages have checksums). UserError then."""
    for number in range(file.metadata.num_row_groups):
        _read(lambda: file.read_row_group(number), path)  # noqa: B023 - called at once


def _of_others(path: Path) -> str | None:
    """A phrase for other data at a path without our shards that `mmpo convert` may read; None if there is none."""
    if path.is_file():
        return "a file" if path.suffix in TABLES + TEXTS else None
    if (path / "card.json").is_file():
        return None
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return "written by `save_to_disk` of datasets"
    for pattern in ("*", "*/*", "*/*/*"):
        for file in sorted(file for suffix in TABLES for file in path.glob(pattern + suffix)):
            if file.suffix != ".parquet" or "provenance" not in _columns(file):
                return f"{file.relative_to(path)} is a table of another layout"
    for file in sorted(file for suffix in TEXTS for file in path.glob("*" + suffix)):
        with open(file, "rb") as start:
            if b'"rejected' in start.read(1 << 16):
                return f"{file.name} is of another layout"
    return None


def _columns(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except FAILURES:
        return []


def _foreign(folder: Path, split: str, what: str) -> UserError:
    beside = folder.with_suffix("") if folder.is_file() else folder
    source, out = shlex.quote(str(folder)), shlex.quote(f"{beside}-pairs")
    option = "" if split == "train" else f" --split {shlex.quote(split)}"
    return UserError(
        f"{folder}: no pairs as mmpo writes them ({what})", hint=f"mmpo convert {source} {out}{option}, then give {out}"
    )


def open_shard(path: Path) -> pq.ParquetFile:
    return _read(lambda: pq.ParquetFile(path, page_checksum_verification=True), path)


def _read(read: Callable[[], T], path: Path) -> T:
    try:
        return read()
    except FAILURES as error:
        raise UserError(
            f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:120]})",
            hint=f"delete {path} and build again",
        ) from error
