"""Log-probs of pairs in Parquet files: `id`, the columns of `LOGPS`, and `why` where a pair could not be scored."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.reader import open_shard, read_cells
from mmpo.errors import UserError
from mmpo.files.atomic import file_digest, replacing
from mmpo.select.margins import Numbers
from mmpo.select.scan import merged
from mmpo.select.table import PairTable

WHY = "why"
NOT_THERE = "not_in_logps"


def files_in(path: Path) -> list[Path]:
    """The Parquet files that `logps` names. UserError for none, and for what is no table of log-probs."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no Parquet files", hint="a select/logps folder, or a table of Model.score")
    for file in files:
        with open_shard(file) as opened:
            if "id" not in opened.schema_arrow.names:
                raise UserError(
                    f"{file}: no table of log-probs: no column `id`",
                    hint="mmpo.load(MODEL, adapter=…).score(PAIRS).to_pandas().to_parquet(FILE) makes one",
                )
    return files


def missing_in(path: Path, names: Collection[str]) -> list[str]:
    """Those of the columns that some file lacks."""
    found = set(names)
    for file in files_in(path):
        with open_shard(file) as opened:
            found &= set(opened.schema_arrow.names)
    return [name for name in names if name not in found]


def identity(path: Path) -> str:
    """A name for the content of the files."""
    return hashlib.sha256(" ".join(map(file_digest, files_in(path))).encode()).hexdigest()[:16]


def with_logps(table: PairTable, folder: Path, path: Path, names: Sequence[str]) -> PairTable:
    """The table of the pairs in `folder` with the columns `names` of the files at `path`, by the pairs' ids. A pair
    that they lack, or that was not scored, has NaN and a reason. UserError for a lacking column, or an id twice."""
    if lacking := missing_in(path, names):
        raise UserError(f"{path}: no column {lacking[0]!r}", hint="score again: leave logps out, give a model")
    keys, columns, codes, reasons = _read(path, names)
    if empty := [name for name in names if len(keys) and not np.isfinite(columns[name]).any()]:
        raise UserError(
            f"{path}: the column {empty[0]!r} is empty",
            hint="a model scored without an adapter has no reference: mmpo.load(MODEL, adapter=…).score(…)",
        )
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise UserError(f"{path}: an id stands in it twice (rows {order[twice[0]]} and {order[twice[0] + 1]})")
    wanted = np.fromiter((_key(name) for name in pair_ids(folder)), dtype=np.uint64, count=table.n)
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    there = keys[place] == wanted if len(keys) else np.zeros(table.n, dtype=np.bool_)
    row = order[place] if len(keys) else place
    more: dict[str, Numbers] = {}
    for name in names:
        values = np.full(table.n, np.nan)
        values[there] = columns[name][row[there]]
        values[~np.isfinite(values)] = np.nan
        more[name] = values
    unscored = np.full(table.n, len(reasons), dtype=np.int64)
    unscored[there] = codes[row[there]]
    return replace(merged(table, more), unscored=unscored, reasons=(*reasons, NOT_THERE))


def _read(path: Path, names: Sequence[str]) -> tuple[np.ndarray, dict[str, Numbers], np.ndarray, list[str]]:
    """(id keys, columns, places in the reasons, the reasons) of all rows."""
    keys: list[np.ndarray] = []
    parts: dict[str, list[Numbers]] = {name: [] for name in names}
    codes: list[np.ndarray] = []
    reasons: list[str] = []
    for file in files_in(path):
        with open_shard(file) as opened:
            stored = [*names, *([WHY] if WHY in opened.schema_arrow.names else [])]
            for batch in opened.iter_batches(columns=["id", *stored]):
                ids = batch.column("id").to_pylist()
                keys.append(np.fromiter((_key(str(one)) for one in ids), dtype=np.uint64, count=len(ids)))
                for name in names:
                    try:
                        values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
                    except (ValueError, TypeError):
                        raise UserError(f"{file}: the column {name!r} holds no numbers") from None
                    parts[name].append(values)
                whys = batch.column(WHY).to_pylist() if WHY in stored else [None] * len(ids)
                for why in whys:
                    if why is not None and why not in reasons:
                        reasons.append(why)
                codes.append(np.array([-1 if why is None else reasons.index(why) for why in whys], dtype=np.int64))
    empty = np.zeros(0)
    return (
        np.concatenate([np.zeros(0, dtype=np.uint64), *keys]),
        {name: np.concatenate([empty, *values]) for name, values in parts.items()},
        np.concatenate([np.zeros(0, dtype=np.int64), *codes]),
        reasons,
    )


def pair_ids(folder: Path) -> Iterator[str]:
    """The ids of a folder's pairs, in order."""
    for cells, where in read_cells(folder, columns=["id"]):
        yield cells.get("id") or Path(where).name


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest(), "little")


def write_logps(path: Path, columns: dict[str, list[str | float | None]]) -> None:
    """One file, whole or not there, its pages with checksums."""
    kinds = {name: pa.string() if name in ("id", WHY) else pa.float64() for name in columns}
    table = pa.table(columns, schema=pa.schema(list(kinds.items())))
    with replacing(path) as beside:
        pq.write_table(table, beside, write_page_checksum=True)
