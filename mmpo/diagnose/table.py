"""The numbers of single pairs, as rows of Parquet files: `numbers/SET/00000.parquet …`, a unit of work each, whole or
not there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.errors import UserError
from mmpo.files.atomic import replacing
from mmpo.outside.failures import FAILURES

NAN = math.nan
BATCH = 8192
"""Rows that are read together."""


@dataclass(frozen=True, slots=True)
class PairNumbers:
    """What is known of one pair: its `row` in the folder, its id; the `reason` why it could not be scored, or log-probs
    (sums over the tokens, nats) and numbers of tokens; CHES; the divergence of a token's distributions between the
    clean and the masked picture (mean, nats). NaN for what was not asked for, or is not there: without an adapter the
    model is the reference, and there is no policy."""

    row: int
    id: str
    reason: str | None = None
    held_out: bool = False
    policy_chosen: float = NAN
    policy_rejected: float = NAN
    reference_chosen: float = NAN
    reference_rejected: float = NAN
    chosen_tokens: float = NAN
    rejected_tokens: float = NAN
    ches: float = NAN
    ches_normalized: float = NAN
    ches_relative: float = NAN
    perception_chosen: float = NAN
    perception_rejected: float = NAN


def with_numbers(row: PairNumbers, numbers: Mapping[str, float]) -> PairNumbers:
    """The row with these of `NUMBERS`."""
    return replace(row, **{name: numbers[name] for name in NUMBERS if name in numbers})  # type: ignore[arg-type]


NUMBERS = tuple(field.name for field in fields(PairNumbers) if field.type == "float")
STATES = ("chosen_state", "rejected_state")
_KINDS = {"row": pa.int64(), "id": pa.string(), "reason": pa.string(), "held_out": pa.bool_()}
SCHEMA = pa.schema(
    [(field.name, _KINDS.get(field.name, pa.float64())) for field in fields(PairNumbers)]
    + [(name, pa.list_(pa.float32())) for name in STATES]
)


@dataclass(frozen=True)
class MeanStates:
    """A pair's mean hidden states, [h] float32 each."""

    chosen: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class PairColumns:
    """Rows of the table that were scored: `rows` [n], their ids, whether they were held out [n], and `numbers[name]`
    [n] float64. `left_out` counts the others by reason."""

    rows: np.ndarray
    ids: Sequence[str]
    held_out: np.ndarray
    numbers: dict[str, np.ndarray]
    left_out: dict[str, int]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.numbers[name]


def write_unit(path: Path, rows: Sequence[PairNumbers], states: Sequence[MeanStates | None] | None = None) -> None:
    """Write the numbers of a unit, and the mean states of those pairs that have some, atomically."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(PairNumbers)}
    kept = states if states is not None else [None] * len(rows)
    columns["chosen_state"] = [None if one is None else one.chosen for one in kept]
    columns["rejected_state"] = [None if one is None else one.rejected for one in kept]
    table = pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_columns(paths: Sequence[Path]) -> Iterator[PairColumns]:
    """The numbers of all units in order, some thousand rows in memory at a time. UserError for a damaged file."""
    names = [name for name in SCHEMA.names if name not in STATES]
    for path in paths:
        for batch in _batches(path, names):
            reasons = np.array(batch.column("reason").is_null())
            counts = batch.column("reason").drop_null().value_counts().to_pylist()
            kept = batch.filter(pa.array(reasons))
            yield PairColumns(
                kept.column("row").to_numpy(),
                kept.column("id").to_pylist(),
                kept.column("held_out").to_numpy(zero_copy_only=False).astype(bool),
                {name: kept.column(name).to_numpy(zero_copy_only=False) for name in NUMBERS},
                {one["values"]: one["counts"] for one in counts},
            )


def read_states(paths: Sequence[Path]) -> Iterator[tuple[int, MeanStates]]:
    """The rows that have mean states, with these."""
    for path in paths:
        for batch in _batches(path, ["row", *STATES]):
            kept = batch.filter(batch.column("chosen_state").is_valid())
            for row, chosen, rejected in zip(*(kept.column(name) for name in ("row", *STATES)), strict=True):
                sides = (np.asarray(side.values.to_numpy(), dtype=np.float32) for side in (chosen, rejected))
                yield row.as_py(), MeanStates(*sides)


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not set(columns) <= set(file.schema_arrow.names):
                raise UserError(f"{path}: not the numbers of a diagnosis", hint=_AGAIN.format(path=path))
            yield from file.iter_batches(batch_size=BATCH, columns=columns)
    except FAILURES as error:
        raise UserError(
            f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:120]})", hint=_AGAIN.format(path=path)
        ) from error


_AGAIN = "delete {path} and run the same command again: only these pairs are scored again"
