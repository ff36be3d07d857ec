"""Texts that an adapter was trained on: none of them may be among the fixed texts of its evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmpo.data.reader import open_shard, shard_paths
from mmpo.files.atomic import read_sealed

_COLUMNS = ("prompt", "chosen", "rejected", "responses")
_ROWS = 1024


def pair_folders(run_dir: Path, adapter: Path) -> list[Path]:
    """The folders of pairs that an adapter was trained on, as far as its run folder and that of the evaluation say.
    UserError where that can't be read."""
    places = [run_dir.parent / "build" / "pairs", adapter.parent.parent / "build" / "pairs"]
    trained = adapter.parent / "step.json"
    if trained.is_file():
        named = read_sealed(trained).get("settings", {}).get("pairs")
        if isinstance(named, str):
            places.append(Path(named.replace("${run}", str(adapter.parent.parent))))
    return [folder for folder in dict.fromkeys(place.resolve() for place in places) if shard_paths(folder, "train")]


def seen(texts: Iterable[str], folders: Iterable[Path]) -> frozenset[str]:
    """Those of `texts` that stand in the pairs as a prompt or as a side, whole, whatever the spaces and capitals.
    UserError for a shard that can't be read."""
    wanted: dict[bytes, list[str]] = {}
    for text in texts:
        wanted.setdefault(_digest(text), []).append(text)
    found: set[str] = set()
    for folder in folders:
        for path in shard_paths(folder, "train"):
            with open_shard(path) as file:
                columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        for text in _texts(row):
                            found.update(wanted.get(_digest(text), ()))
    return frozenset(found)


def _digest(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.split()).casefold().encode("utf-8", "surrogatepass")).digest()


def _texts(value: Any) -> Iterator[str]:
    """Every text in a row's cells, without the words that say what a part is."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "type"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
