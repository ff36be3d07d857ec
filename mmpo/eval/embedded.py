"""Published rows with their pictures: in Parquet, as `datasets` stores them, or in JSON with paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.files.atomic import write_bytes
from mmpo.outside import naming


def read_rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of a JSON, JSON Lines or Parquet file, a few in memory at a time. Raises UserError for a file
    that can't be read."""
    path = Path(path)
    if path.suffix != ".parquet":
        yield from read_records(path)
        return
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with naming(path, "Parquet"), pq.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=16):
            for row in batch.to_pylist():
                yield f"{path}:{number}", row
                number += 1


def picture_of(value: Any, where: str) -> str | bytes:
    """A row's picture: its path, or its encoded bytes. Raises UserError where it is neither."""
    if isinstance(value, Mapping):  # as `datasets` stores images
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes) or not value:
        raise UserError(f"{where}: an image must be a path or encoded bytes, found {type(value).__name__}")
    return value


class PictureFolder:
    """Where a benchmark's pictures are: paths below `root`, and a `folder` for those that came inside a file."""

    def __init__(self, folder: Path, root: str) -> None:
        self.folder, self.root = folder, root

    def placed(self, images: Sequence[str | bytes]) -> tuple[str, list[str]]:
        """(the folder, the names in it) of the pictures of one question; embedded ones are written there once."""
        embedded = any(isinstance(image, bytes) for image in images)
        names = [image if isinstance(image, str) else self._kept(image) for image in images]
        return str(self.folder) if embedded else self.root, names

    def _kept(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:24]
        if not (self.folder / name).exists():
            write_bytes(self.folder / name, data)
        return name
