"""From a folder of pairs to the numbers that selectors read. Rows are streamed; a column of numbers is kept for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import count_pairs, open_shard, read_cells, shard_paths
from mmpo.data.rows import from_row
from mmpo.data.shards import frames_of
from mmpo.errors import UserError
from mmpo.files.atomic import read_json
from mmpo.progress import track
from mmpo.select.margins import Numbers
from mmpo.select.table import CHARACTERS, SCORES, TEXT, WORDS, PairTable

ALWAYS = WORDS
"""Columns that every report needs."""
_SHOWN = ("images", "rejected_images", "videos")


def score_names(folder: Path) -> tuple[str, ...]:
    """The names of the scores that the shards have a place for, in order."""
    names: dict[str, None] = {}
    for path in shard_paths(folder, "train"):
        with open_shard(path) as file:
            schema = file.schema_arrow
        if (index := schema.get_field_index("scores")) >= 0:
            names |= dict.fromkeys(field.name for field in schema.field(index).type)
    return tuple(names)


def stored_as(column: str, names: Collection[str]) -> str | None:
    """The score that a column `scores.NAME` is: that of the name, else NAME_reward. None where there is neither."""
    name = column.removeprefix(SCORES)
    return next((one for one in (name, f"{name}_reward") if one in names), None)


def folder_identity(folder: Path) -> str:
    """A name for the rows of a folder: the digests of its shards as its card has them, else their names and sizes."""
    card = read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    files = card.get("files") if isinstance(card, dict) else None
    known = [(path.name, path.stat().st_size) for path in shard_paths(folder, "train")]
    return hashlib.sha256(json.dumps([files, known], sort_keys=True).encode()).hexdigest()[:16]


def scan(folder: Path, wanted: Collection[str]) -> PairTable:
    """The table of a folder's pairs with the columns `wanted` that its text and its scores give. Raises `UserError` for
    a row that is no pair, and for a score that the folder has not."""
    n, names = count_pairs(folder), score_names(folder)
    stored: dict[str, str] = {}
    for column in wanted:
        if column.startswith(SCORES):
            found = stored_as(column, names)
            if found is None:
                raise UserError(
                    f"{folder}: no pair has a score {column.removeprefix(SCORES)!r}",
                    hint=f"they have {', '.join(names)}" if names else "these pairs have no scores at all",
                )
            stored[column] = found
    text = [name for name in TEXT if name in wanted or name in ALWAYS]
    columns: dict[str, Numbers] = {name: np.full(n, np.nan) for name in (*text, *stored) if name != "prompt"}
    prompts = np.zeros(n, dtype=np.int64) if "prompt" in text else None
    for place, pair in enumerate(track(_pairs(folder, text, bool(stored)), "reading pairs", n)):
        for name, value in _measured(pair, text):
            columns[name][place] = value
        for name, score in stored.items():
            columns[name][place] = (pair.scores or {}).get(score, np.nan)
        if prompts is not None:
            prompts[place] = _prompt(pair)
    return PairTable(n, columns, prompts)


def _pairs(folder: Path, text: Collection[str], scores: bool) -> Iterator[PreferencePair]:
    """The pairs without what no column needs: pictures, but for the prompt's identity."""
    needed = ["id", "prompt", "chosen", "rejected"]
    if scores:
        needed.append("scores")
    if "unfinished" in text:
        needed += ["unfinished", "provenance"]
    if "prompt" in text:
        needed += _SHOWN
    for cells, where in read_cells(folder, columns=needed):
        yield from_row(cells, where)


def _measured(pair: PreferencePair, text: Collection[str]) -> Iterator[tuple[str, float]]:
    chosen, rejected = pair.chosen_text, pair.rejected_text
    sides = chosen.split(), rejected.split()
    yield from zip(WORDS, map(len, sides), strict=True)
    if CHARACTERS[0] in text:
        yield CHARACTERS[0], len(chosen)
    if CHARACTERS[1] in text:
        yield CHARACTERS[1], len(rejected)
    if "edit_distance" in text:
        yield "edit_distance", Levenshtein.normalized_distance(*sides)
    if "unfinished" in text:
        yield "unfinished", float(pair.unfinished)


def _prompt(pair: PreferencePair) -> int:
    """The same number for pairs with the same prompt and pictures, another one for others but for one in 2^63."""
    digest = hashlib.blake2b(json.dumps(pair.prompt, sort_keys=True).encode(), digest_size=8)
    shown: list[Any] = [*pair.images, "|", *(pair.rejected_images or []), "|", *frames_of(pair.videos)]
    shown += [video["path"] for video in pair.videos or [] if "path" in video]
    for one in shown:
        data = one if isinstance(one, bytes) else str(one).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1


def merged(table: PairTable, more: Mapping[str, Numbers]) -> PairTable:
    """The table with further columns."""
    return PairTable(table.n, {**table.columns, **more}, table.prompts, table.unscored, table.reasons)
