"""A folder of preference pairs: written in whole Parquet shards, opened by `datasets.load_dataset` as it is.

    FOLDER/data/train-00000.parquet …   the pairs
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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.card import Counts, Rejects, count_reasons, recipe_hash, rejects_path, write_card
from mmpo.data.pair import PreferencePair, Video, validate
from mmpo.data.reader import (
    ROW_GROUP,
    PairDataset,
    check_pages,
    check_pairs,
    count_pairs,
    open_shard,
    read_pairs,
    shard_path,
    shard_paths,
)
from mmpo.data.rows import check_scores, pair_schema, to_row
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import remove_leftovers, write_bytes
from mmpo.files.images import portable_image

__all__ = ["Counts", "PairDataset", "PairWriter", "Rejects", "check_pairs", "count_pairs", "read_pairs", "write_card"]

BYTES_PER_SHARD = 256 * 2**20
NEW_FOLDER = "build into a new folder, or delete this one"


class PairWriter:
    """Writes the pairs that sources give, in order. Use it in a `with` block; leaving it well finishes the dataset.

        with PairWriter(folder, recipe=recipe) as writer:
            for source in islice(sources, writer.sources_done, None):  # what an earlier run did is not done again
                try:
                    writer.add(build(source))
                except Quarantined as error:
                    writer.reject(source.id, error)

    Every source ends in one `add` or one `reject`. A shard closes behind the source that fills it.

    Args:
        rows_per_shard: also the work that a kill can cost; choose it small where a pair is expensive.
        recipe: what makes the pairs. A folder written by another recipe is refused.
        scores: the names of the scores. Left out, they are those of the first shard.
        images: a folder; image paths of the pairs are read from there and embedded. Left out, paths stay paths below
            the dataset's folder; mmpo finds them there, `datasets` looks for them in the current folder.
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
        self._ids: set[str] = set()
        self._bytes = 0
        self._shards = 0
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        remove_leftovers(self.folder / "data")
        self.rejects = Rejects(rejects_path(self.folder, split))
        self._resume()

    @property
    def sources_done(self) -> int:
        """The number of sources already done, in this run and earlier ones. Skip as many before the first `add`."""
        return self.counts.sources

    def add(self, *pairs: PreferencePair) -> None:
        """The pairs, at least one, that one source gave. UserError for a pair that breaks a rule of the schema, or has
        another one's id."""
        if not pairs:
            raise ValueError("a source without a pair is one to `reject`")
        whole = [self._embedded(pair) for pair in pairs]
        for number, pair in enumerate(whole):
            validate(pair, f"{self.folder}: {self.split} row {self.counts.pairs + number}")
            if pair.id in self._ids:
                raise UserError(f"{self.folder}: a second pair is called {pair.id!r}", hint="ids must differ")
            self._ids.add(pair.id)
            if self._scores is not None:
                check_scores(pair, self._scores)
        self._rows += whole
        self._bytes += sum(_size(pair) for pair in whole)
        self.counts.sources += 1
        self.counts.kept += 1
        self.counts.pairs += len(whole)
        if len(self._rows) >= self.rows_per_shard or self._bytes >= BYTES_PER_SHARD:
            self._commit()

    def reject(self, id: str, error: Quarantined) -> None:
        """A source that gave no pair, and why: what it raised, or `Quarantined("filter", "no_hallucination")`, say."""
        self.rejects.add(id, error)
        self.counts.sources += 1
        self.counts.rejected += 1
        reason = f"{error.stage}/{error.reason}"
        self.counts.reasons[reason] = self.counts.reasons.get(reason, 0) + 1

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
            videos=None if pair.videos is None else [self._embedded_video(video) for video in pair.videos],
        )

    def _embedded_video(self, video: Video) -> Video:
        return {**video, "frames": [self._embed(frame) for frame in video["frames"]]} if video.get("frames") else video

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
        write_bytes(shard_path(self.folder, self.split, self._shards), _parquet(table))
        self._shards += 1
        self._rows, self._bytes = [], 0

    def _resume(self) -> None:
        paths = shard_paths(self.folder, self.split)
        for number, path in enumerate(paths):
            if path != shard_path(self.folder, self.split, number):
                raise UserError(f"{self.folder}: shard {number} of {self.split} is missing", hint=NEW_FOLDER)
        for path in paths:
            with open_shard(path) as file:
                stamp = file.schema_arrow.metadata or {}
                if stamp.get(b"mmpo.recipe") != recipe_hash(self.recipe).encode():
                    raise UserError(f"{path}: was built by another recipe", hint=NEW_FOLDER)
                self.counts.sources, self.counts.rejected = int(stamp[b"mmpo.sources"]), int(stamp[b"mmpo.rejected"])
                self.counts.pairs += file.metadata.num_rows
                check_pages(file, path)
                self._ids.update(file.read(columns=["id"])["id"].to_pylist())
                names = _score_names(file.schema_arrow)
            if self._scores is None:
                self._scores = names
            elif self._scores != names:
                raise UserError(f"{path}: has the scores {names}, not {self._scores}", hint=NEW_FOLDER)
        if len(self.rejects) < self.counts.rejected:
            raise UserError(
                f"{self.rejects.path}: has {len(self.rejects)} rows, the shards count {self.counts.rejected}",
                hint=NEW_FOLDER,
            )
        self.counts.kept, self._shards = self.counts.sources - self.counts.rejected, len(paths)
        self.rejects.truncate(self.counts.rejected)
        self.counts.reasons = count_reasons(self.rejects.path)


def _parquet(table: pa.Table) -> bytes:
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


def _size(pair: PreferencePair) -> int:
    frames = [frame for video in pair.videos or [] for frame in video.get("frames") or []]
    images = [*pair.images, *(pair.rejected_images or []), *frames]
    return sum(len(image) for image in images) + len(pair.chosen_text) + len(pair.rejected_text)


def _score_names(schema: pa.Schema) -> tuple[str, ...]:
    index = schema.get_field_index("scores")
    return tuple(field.name for field in schema.field(index).type) if index >= 0 else ()
