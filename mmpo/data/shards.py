"""A folder of preference pairs, or of groups of responses: written in whole Parquet shards, opened by
`datasets.load_dataset` as it is.

    FOLDER/data/train-00000.parquet …   the rows
    FOLDER/rejects.jsonl                the sources that gave none, with stage and reason
    FOLDER/card.json, README.md         counts and recipe; written last

Killed and restarted, a writer continues behind the last shard and ends with the same bytes. The rename of a shard is
the one point of commitment: its metadata say how many sources and rejects lie behind it, and what a killed run left
beyond that is cut off.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.card import Counts, Rejects, count_reasons, recipe_hash, rejects_path, write_card
from mmpo.data.pair import PreferencePair, Video, validate
from mmpo.data.reader import (
    FORMAT_KEY,
    PAIRS,
    RESPONSES,
    ROW_GROUP,
    PairDataset,
    check_format,
    check_pages,
    check_pairs,
    count_pairs,
    open_shard,
    read_groups,
    read_pairs,
    shard_path,
    shard_paths,
)
from mmpo.data.responses import ResponseGroup, validate_group
from mmpo.data.rows import check_scores, group_schema, group_to_row, pair_schema, to_row
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import remove_leftovers, write_bytes
from mmpo.files.images import portable_image

__all__ = [
    "Counts", "PairDataset", "PairWriter", "Rejects", "ResponseWriter", "check_pairs", "count_pairs", "read_groups",
    "read_pairs", "write_card",
]  # fmt: skip

BYTES_PER_SHARD = 256 * 2**20
NEW_FOLDER = "build into a new folder, or delete this one"


class WrittenRecord(Protocol):
    """What a writer knows of the records it writes: they have ids."""

    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=WrittenRecord)
Writer = TypeVar("Writer", bound="ShardWriter[Any]")


class ShardWriter(Generic[Record]):
    """Writes the records that sources give, in order. Use it in a `with` block; leaving it well finishes the dataset.

        with PairWriter(folder, recipe=recipe) as writer:
            for source in islice(sources, writer.sources_done, None):  # what an earlier run did is not done again
                try:
                    writer.add(build(source))
                except Quarantined as error:
                    writer.reject(source.id, error)

    Every source ends in one `add` or one `reject`. A shard closes behind the source that fills it. Subclasses say what
    a record is: its schema and cells, its rules and its size.

    Args:
        rows_per_shard: also the work that a kill can cost; choose it small where a record is expensive.
        recipe: what makes the records. A folder written by another recipe is refused.
        images: a folder; image paths of the records are read from there and embedded. Left out, paths stay paths below
            the dataset's folder; mmpo finds them there, `datasets` looks for them in the current folder.
    """

    format = PAIRS
    noun, title = "pair", "Preference pairs"

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "train",
        rows_per_shard: int = 512,
        recipe: Mapping[str, Any] | None = None,
        images: str | Path | None = None,
    ) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise UserError(f"split {split!r} must be a word", hint="for instance train, validation or test")
        if rows_per_shard < 1:
            raise UserError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
        self.folder, self.split, self.recipe, self.images = Path(folder), split, recipe, images
        self.rows_per_shard = rows_per_shard
        self.counts = Counts()
        self._rows: list[Record] = []
        self._ids: set[str] = set()
        self._bytes = 0
        self._shards = 0
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        remove_leftovers(self.folder / "data")
        self.rejects = Rejects(rejects_path(self.folder, split))
        self._resume()

    # ---- of a record

    def schema(self, rows: Sequence[Record], stamp: Mapping[str, str]) -> pa.Schema:
        """The columns of a shard with these rows."""
        raise NotImplementedError

    def cells(self, record: Record) -> dict[str, Any]:
        """A record as a row of the schema."""
        raise NotImplementedError

    def check(self, record: Record, where: str) -> None:
        """UserError for a record that breaks a rule."""
        raise NotImplementedError

    def size(self, record: Record) -> int:
        """The bytes of a record, about."""
        raise NotImplementedError

    def embedded(self, record: Record) -> Record:
        """The record with what its image paths point to."""
        raise NotImplementedError

    def check_columns(self, schema: pa.Schema, path: Path) -> None:
        """UserError for an earlier shard that this writer can't go on behind."""

    # ---- writing

    @property
    def sources_done(self) -> int:
        """The number of sources already done, in this run and earlier ones. Skip as many before the first `add`."""
        return self.counts.sources

    def add(self, *records: Record) -> None:
        """The records, at least one, that one source gave. UserError for one that breaks a rule of the schema, or has
        another one's id."""
        if not records:
            raise ValueError(f"a source without a {self.noun} is one to `reject`")
        whole = [record if self.images is None else self.embedded(record) for record in records]
        for number, record in enumerate(whole):
            self.check(record, f"{self.folder}: {self.split} row {self.counts.pairs + number}")
            if record.id in self._ids:
                raise UserError(f"{self.folder}: a second {self.noun} is called {record.id!r}", hint="ids must differ")
            self._ids.add(record.id)
        self._rows += whole
        self._bytes += sum(map(self.size, whole))
        self.counts.sources += 1
        self.counts.kept += 1
        self.counts.pairs += len(whole)
        if len(self._rows) >= self.rows_per_shard or self._bytes >= BYTES_PER_SHARD:
            self._commit()

    def reject(self, id: str, error: Quarantined) -> None:
        """A source that gave none, and why: what it raised, or `Quarantined("filter", "no_hallucination")`, say."""
        self.rejects.add(id, error)
        self.counts.sources += 1
        self.counts.rejected += 1
        reason = f"{error.stage}/{error.reason}"
        self.counts.reasons[reason] = self.counts.reasons.get(reason, 0) + 1

    def close(self, *, title: str | None = None, notes: str = "") -> Path:
        """Write the last shard, card.json and README.md. A dataset without any record gets one empty shard."""
        if self._rows or not self._shards:
            self._commit()
        self.rejects.close()
        how = {"split": self.split, "title": title or self.title, "notes": notes, "format": self.format}
        return write_card(self.folder, self.counts, self.recipe, **how)

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.rejects.close()

    def embed(self, image: bytes | str) -> bytes:
        """The bytes of an image."""
        return image if isinstance(image, bytes) else portable_image(image, root=self.images)

    def embed_video(self, video: Video) -> Video:
        """The video with the bytes of its frames."""
        return {**video, "frames": [self.embed(frame) for frame in video["frames"]]} if video.get("frames") else video

    def _commit(self) -> None:
        stamp = {
            "mmpo.recipe": recipe_hash(self.recipe),
            "mmpo.sources": str(self.counts.sources),
            "mmpo.rejected": str(self.counts.rejected),
        }
        if self.format != PAIRS:
            stamp[FORMAT_KEY.decode()] = self.format
        schema = self.schema(self._rows, stamp)
        table = pa.Table.from_pylist([self.cells(record) for record in self._rows], schema=schema)
        self.rejects.sync()  # rejects first: the shard that counts them must never be there without them
        write_bytes(shard_path(self.folder, self.split, self._shards), parquet_bytes(table))
        self._shards += 1
        self._rows, self._bytes = [], 0

    def _resume(self) -> None:
        paths = shard_paths(self.folder, self.split)
        for number, path in enumerate(paths):
            if path != shard_path(self.folder, self.split, number):
                raise UserError(f"{self.folder}: shard {number} of {self.split} is missing", hint=NEW_FOLDER)
        for path in paths:
            with open_shard(path) as file:
                check_format(file.schema_arrow, self.format, path)
                stamp = file.schema_arrow.metadata or {}
                if stamp.get(b"mmpo.recipe") != recipe_hash(self.recipe).encode():
                    raise UserError(f"{path}: was built by another recipe", hint=NEW_FOLDER)
                self.counts.sources, self.counts.rejected = int(stamp[b"mmpo.sources"]), int(stamp[b"mmpo.rejected"])
                self.counts.pairs += file.metadata.num_rows
                check_pages(file, path)
                self._ids.update(file.read(columns=["id"])["id"].to_pylist())
                self.check_columns(file.schema_arrow, path)
        if len(self.rejects) < self.counts.rejected:
            raise UserError(
                f"{self.rejects.path}: has {len(self.rejects)} rows, the shards count {self.counts.rejected}",
                hint=NEW_FOLDER,
            )
        self.counts.kept, self._shards = self.counts.sources - self.counts.rejected, len(paths)
        self.rejects.truncate(self.counts.rejected)
        self.counts.reasons = count_reasons(self.rejects.path)


class PairWriter(ShardWriter[PreferencePair]):
    """Writes pairs (`ShardWriter`). `scores` are the names of the scores; left out, they are those of the first
    shard."""

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
        self._scores = None if scores is None else tuple(scores)
        super().__init__(folder, split=split, rows_per_shard=rows_per_shard, recipe=recipe, images=images)

    def schema(self, rows: Sequence[PreferencePair], stamp: Mapping[str, str]) -> pa.Schema:
        if self._scores is None:
            self._scores = tuple(dict.fromkeys(name for pair in rows for name in pair.scores or {}))
        return pair_schema(self._scores, stamp)

    def cells(self, record: PreferencePair) -> dict[str, Any]:
        return to_row(record, self._scores or ())

    def check(self, record: PreferencePair, where: str) -> None:
        validate(record, where)
        if self._scores is not None:
            check_scores(record, self._scores)

    def size(self, record: PreferencePair) -> int:
        images = [*record.images, *(record.rejected_images or []), *frames_of(record.videos)]
        return sum(len(image) for image in images) + len(record.chosen_text) + len(record.rejected_text)

    def embedded(self, record: PreferencePair) -> PreferencePair:
        rejected = record.rejected_images
        return replace(
            record,
            images=[self.embed(image) for image in record.images],
            rejected_images=None if rejected is None else [self.embed(image) for image in rejected],
            videos=None if record.videos is None else [self.embed_video(video) for video in record.videos],
        )

    def check_columns(self, schema: pa.Schema, path: Path) -> None:
        names = _score_names(schema)
        if self._scores is None:
            self._scores = names
        elif self._scores != names:
            raise UserError(f"{path}: has the scores {names}, not {self._scores}", hint=NEW_FOLDER)


class ResponseWriter(ShardWriter[ResponseGroup]):
    """Writes groups of responses (`ShardWriter`)."""

    format = RESPONSES
    noun, title = "group", "Groups of scored responses"

    def schema(self, rows: Sequence[ResponseGroup], stamp: Mapping[str, str]) -> pa.Schema:
        return group_schema(stamp)

    def cells(self, record: ResponseGroup) -> dict[str, Any]:
        return group_to_row(record)

    def check(self, record: ResponseGroup, where: str) -> None:
        validate_group(record, where)

    def size(self, record: ResponseGroup) -> int:
        shown = [*record.images, *frames_of(record.videos)]
        return sum(map(len, shown)) + sum(len(response.text) for response in record.responses)

    def embedded(self, record: ResponseGroup) -> ResponseGroup:
        return replace(
            record,
            images=[self.embed(image) for image in record.images],
            videos=None if record.videos is None else [self.embed_video(video) for video in record.videos],
        )


def frames_of(videos: Sequence[Video] | None) -> list[bytes | str]:
    """The frames that are stored of videos."""
    return [frame for video in videos or [] for frame in video.get("frames") or []]


def parquet_bytes(table: pa.Table) -> bytes:
    """The bytes of a Parquet file, which depend on the table and the version of pyarrow only."""
    out = io.BytesIO()
    leaves = list(_leaf_paths(table.schema))
    # Pictures are compressed already, and no two rows need be alike: store them as they are.
    plain = [name for name, kind in leaves if kind != pa.binary()]
    compression = {name: "NONE" if kind == pa.binary() else "ZSTD" for name, kind in leaves}
    with pq.ParquetWriter(
        out,
        table.schema,
        compression=compression,
        use_dictionary=plain,
        write_statistics=plain,
        write_page_checksum=True,
    ) as writer:
        if table.num_rows:  # `datasets` takes a file without a row group, but not an empty row group
            writer.write_table(table, row_group_size=ROW_GROUP)
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


def _score_names(schema: pa.Schema) -> tuple[str, ...]:
    index = schema.get_field_index("scores")
    return tuple(field.name for field in schema.field(index).type) if index >= 0 else ()
