"""A folder of preference pairs: written in whole Parquet shards, opened by `datasets.load_dataset` as it is.

    FOLDER/data/train-00000.parquet …   the pairs
    FOLDER/rejects.jsonl                the sources that gave none, with stage and reason
    FOLDER/card.json, README.md         counts and recipe; written last

Killed and started again, a writer goes on behind the last shard and ends with the same bytes. The rename of a shard is
the one point of commitment: its metadata say how many sources and rejects lie behind it, and what a killed run left
beyond that is cut off.
"""

from __future__ import annotations

import bisect
import io
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.atomic import remove_leftovers, write_bytes
from mmpo.data.card import Counts, Rejects, count_reasons, recipe_hash, rejects_path, write_card
from mmpo.data.images import portable_image
from mmpo.data.pair import PreferencePair, validate
from mmpo.data.rows import from_row, pair_schema, to_row
from mmpo.errors import Quarantined, UserError

__all__ = ["Counts", "PairDataset", "PairWriter", "Rejects", "count_pairs", "read_pairs", "write_card"]

ROW_GROUP = 32  # rows that are decoded together: small, so that reading one row at random stays cheap
BYTES_PER_SHARD = 256 * 2**20


class PairWriter:
    """Writes the pairs that sources give, in their order. Use it in a `with` block; leaving it well finishes the dataset.

        with PairWriter(folder, recipe=recipe) as writer:
            for source in islice(sources, writer.sources_done, None):  # what an earlier run did is not done again
                try:
                    writer.add(build(source))
                except Quarantined as error:
                    writer.reject(source.id, error)

    Every source ends in one `add` or one `reject`. A shard closes behind the source that fills it.

    Args:
        rows_per_shard: also the work that a kill can cost; choose it small where a pair is dear.
        recipe: what makes the pairs. A folder written by another recipe is refused.
        scores: the names of the scores. Left out, they are those of the first shard.
        images: a folder; image paths of the pairs are read from there and embedded. Left out, paths stay paths, relative
            to the dataset.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "train",
        rows_per_shard: int = 512,
        recipe: Mapping[str, Any] | None = None,
        scores: Sequence[str] | None = None,
        images: str | Path | None = None,
    ) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise UserError(f"split {split!r} must be a word", hint="for instance train, validation or test")
        if rows_per_shard < 1:
            raise UserError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
        self.folder, self.split, self.recipe, self.images = Path(folder), split, recipe, images
        self.rows_per_shard = rows_per_shard
        self.counts = Counts()
        self._scores = None if scores is None else tuple(scores)
        self._rows: list[PreferencePair] = []
        self._bytes = 0
        self._shards = 0
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        remove_leftovers(self.folder / "data")
        self.rejects = Rejects(rejects_path(self.folder, split))
        self._resume()

    @property
    def sources_done(self) -> int:
        """How many sources are behind us, this run's and earlier ones'. Skip as many before the first `add`."""
        return self.counts.sources

    def add(self, *pairs: PreferencePair) -> None:
        """The pairs, at least one, that one source gave. UserError for a pair that breaks a rule of the schema."""
        if not pairs:
            raise ValueError("a source without a pair is one to `reject`")
        whole = [self._embedded(pair) for pair in pairs]
        for number, pair in enumerate(whole):
            validate(pair, f"{self.folder}: {self.split} row {self.counts.pairs + number}")
        self._rows += whole
        self._bytes += sum(_size(pair) for pair in whole)
        self.counts.sources += 1
        self.counts.kept += 1
        self.counts.pairs += len(whole)
        if len(self._rows) >= self.rows_per_shard or self._bytes >= BYTES_PER_SHARD:
            self._commit()

    @overload
    def reject(self, id: str, error: Quarantined) -> None: ...
    @overload
    def reject(self, id: str, stage: str, reason: str, detail: str = "") -> None: ...
    def reject(self, id: str, stage: str | Quarantined, reason: str = "", detail: str = "") -> None:
        """A source that gave no pair, with the stage and the reason, or with the error that says both."""
        if isinstance(stage, Quarantined):
            stage, reason, detail = stage.stage, stage.reason, stage.detail
        self.rejects.add(id, stage, reason, detail)
        self.counts.sources += 1
        self.counts.rejected += 1
        key = f"{stage}/{reason}"
        self.counts.reasons[key] = self.counts.reasons.get(key, 0) + 1

    def close(self, *, title: str = "Preference pairs", notes: str = "") -> Path:
        """Write the last shard, card.json and README.md. A dataset without any pair gets one empty shard."""
        if self._rows or not self._shards:
            self._commit()
        self.rejects.close()
        return write_card(self.folder, self.counts, self.recipe, split=self.split, title=title, notes=notes)

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.rejects.close()

    def _embedded(self, pair: PreferencePair) -> PreferencePair:
        if self.images is None:
            return pair
        rejected = pair.rejected_images
        return replace(
            pair,
            images=[self._embed(image) for image in pair.images],
            rejected_images=None if rejected is None else [self._embed(image) for image in rejected],
            videos=None if pair.videos is None else [
                {**video, "frames": [self._embed(frame) for frame in video["frames"]]} if video.get("frames") else video
                for video in pair.videos
            ],
        )

    def _embed(self, image: bytes | str) -> bytes:
        return image if isinstance(image, bytes) else portable_image(image, root=self.images)

    def _commit(self) -> None:
        if self._scores is None:
            self._scores = tuple(dict.fromkeys(name for pair in self._rows for name in pair.scores or {}))
        stamp = {
            "mmpo.recipe": recipe_hash(self.recipe),
            "mmpo.sources": str(self.counts.sources),
            "mmpo.rejected": str(self.counts.rejected),
        }
        schema = pair_schema(self._scores, stamp)
        table = pa.Table.from_pylist([to_row(pair, self._scores) for pair in self._rows], schema=schema)
        self.rejects.sync()  # rejects first: the shard that counts them must never be there without them
        write_bytes(_shard_path(self.folder, self.split, self._shards), _parquet(table))
        self._shards += 1
        self._rows, self._bytes = [], 0

    def _resume(self) -> None:
        paths = _shard_paths(self.folder, self.split)
        for number, path in enumerate(paths):
            if path != _shard_path(self.folder, self.split, number):
                raise UserError(f"{self.folder}: shard {number} of {self.split} is missing", hint="build into a new folder")
        kept = 0
        for path in paths:
            with _open(path) as file:
                stamp = file.schema_arrow.metadata or {}
                if stamp.get(b"mmpo.recipe") != recipe_hash(self.recipe).encode():
                    raise UserError(
                        f"{path}: was built by another recipe", hint="build into a new folder, or delete this one"
                    )
                self.counts.sources, self.counts.rejected = int(stamp[b"mmpo.sources"]), int(stamp[b"mmpo.rejected"])
                self.counts.pairs += file.metadata.num_rows
                names = _score_names(file.schema_arrow)
            if self._scores is None:
                self._scores = names
            elif self._scores != names:
                raise UserError(f"{path}: has the scores {names}, not {self._scores}", hint="build into a new folder")
        kept = self.counts.sources - self.counts.rejected
        if len(self.rejects) < self.counts.rejected:
            raise UserError(
                f"{self.rejects.path}: has {len(self.rejects)} rows, the shards count {self.counts.rejected}",
                hint="the file was changed; build into a new folder",
            )
        self.counts.kept, self._shards = kept, len(paths)
        self.rejects.truncate(self.counts.rejected)
        self.counts.reasons = count_reasons(self.rejects.path)


class PairDataset(Sequence[PreferencePair]):
    """The pairs of a folder by number, in any order, without holding them in memory.

    Rows are decoded a row group at a time and the last few groups are kept. Not for several threads at once; a worker
    process that gets a copy opens the files for itself.
    """

    KEPT_GROUPS = 8

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder, self.split = Path(folder), split
        self._groups: list[tuple[Path, int, int]] = []  # file, number of the group, its first row in the file
        self._ends: list[int] = []
        total = 0
        for path in _existing_shards(self.folder, split):
            with _open(path) as file:
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
            with _open(path) as file:
                self._cache[group] = _read(lambda: file.read_row_group(number).to_pylist(), path)
            if len(self._cache) > self.KEPT_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]


def read_pairs(folder: str | Path, split: str = "train") -> Iterator[PreferencePair]:
    """Every pair of a split in order, checked, a few rows in memory at a time. UserError names the file and the row.

    A row counts from 0 within its file. Shards that others wrote with the same columns are read too.
    """
    for path in _existing_shards(Path(folder), split):
        with _open(path) as file:
            batches = file.iter_batches(batch_size=ROW_GROUP)
            row = 0
            while (batch := _read(lambda: next(batches, None), path)) is not None:  # noqa: B023 - called at once
                for cells in batch.to_pylist():
                    where = f"{path}:{row}"
                    yield validate(from_row(cells, where), where)
                    row += 1


def count_pairs(folder: str | Path, split: str = "train", *, missing_ok: bool = False) -> int:
    """The number of pairs, from the files' footers. A folder without the split is a UserError, or 0 with `missing_ok`."""
    paths = _shard_paths(Path(folder), split) if missing_ok else _existing_shards(Path(folder), split)
    total = 0
    for path in paths:
        with _open(path) as file:
            total += file.metadata.num_rows
    return total


def _parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file, which depend on the table and the version of pyarrow only."""
    out = io.BytesIO()
    names = [path for path in _leaf_paths(table.schema)]
    # Pictures are compressed already, and no two rows need be alike: store them as they are.
    binary = {name for name, kind in names if kind == pa.binary()}
    pq.write_table(
        table,
        out,
        row_group_size=ROW_GROUP,
        compression={name: "NONE" if name in binary else "ZSTD" for name, _ in names},
        use_dictionary=[name for name, _ in names if name not in binary],
        write_statistics=[name for name, _ in names if name not in binary],
    )
    return out.getvalue()


def _leaf_paths(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """The columns as Parquet names them: `images.list.element.bytes`."""

    def walk(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
        if pa.types.is_list(kind):
            yield from walk(f"{name}.list.element", kind.value_type)
        elif pa.types.is_struct(kind):
            for field in kind:
                yield from walk(f"{name}.{field.name}", field.type)
        else:
            yield name, kind

    for field in schema:
        yield from walk(field.name, field.type)


def _size(pair: PreferencePair) -> int:
    frames = [frame for video in pair.videos or [] for frame in video.get("frames") or []]
    images = [*pair.images, *(pair.rejected_images or []), *frames]
    return sum(len(image) for image in images) + len(pair.chosen_text) + len(pair.rejected_text)


def _score_names(schema: pa.Schema) -> tuple[str, ...]:
    index = schema.get_field_index("scores")
    return tuple(field.name for field in schema.field(index).type) if index >= 0 else ()


def _shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / "data" / f"{split}-{number:05d}.parquet"


def _shard_paths(folder: Path, split: str) -> list[Path]:
    return sorted((folder / "data").glob(f"{split}-*.parquet"))


def _existing_shards(folder: Path, split: str) -> list[Path]:
    paths = _shard_paths(folder, split)
    if not paths:
        raise UserError(f"{folder}: no pairs of the split {split!r} (data/{split}-*.parquet)", hint="build it first")
    return paths


def _open(path: Path) -> pq.ParquetFile:
    return _read(lambda: pq.ParquetFile(path), path)


def _read(read: Any, path: Path) -> Any:
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:120]})", hint="delete it and build again"
        ) from None
