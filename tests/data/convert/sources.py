"""Small hand-written sources in every format, with pictures beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.convert import Converted, convert
from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from tests.data.making import picture


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").open()]


def converted(source: Path, out: Path, **given: Any) -> tuple[list[PreferencePair], Converted]:
    """The pairs that a source gives as mmpo reads them back, and the account."""
    result = convert(source, out, **given)
    assert result.rows == result.kept + sum(result.quarantined.values())
    pairs = list(read_pairs(out))
    assert len(pairs) == result.pairs
    return pairs, result


def parts(pair: PreferencePair) -> list[str]:
    """The prompt in short: `<image>` for an image, else the text."""
    return [part.get("text", f"<{part['type']}>") for message in pair.prompt for part in message["content"]]
