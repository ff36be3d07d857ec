"""The files of a source that hold preferences. What holds none is left out by name, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmpo.data.convert.llamafactory import registered
from mmpo.data.convert.rows import NotRowsError, Row, read_files
from mmpo.data.convert.texts import REJECTED_SIDE

SNIFFED = 20  # rows read to find the format, and whether a file holds preferences
# Where projects keep both answers in one column.
BOTH_SIDES = frozenset({"completions", "AI_pseudo_response", "text"})
ASKED = re.compile(
    r"question(?:_id)?|query|prompt|text|instruction|input|answers?|label|truth|captions?|conversations|messages|image|"
    r"response|output|gt|gt_answer|ground_truth"
)


class RowSource:
    """The rows of a file, or of the files of one split in a folder.

    In a folder a file is skipped if LLaMA-Factory's `dataset_info.json` registers it as no ranking data, or if none of
    its first rows has a rejected answer. `first` holds the first rows, of one file; they are not lost on the way.
    """

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.skipped: dict[str, str] = {}
        folder = path if path.is_dir() else path.parent
        self._folder, self._whole = folder, path.is_dir()
        self._files = self._wanted(path, split)
        name, self.first, rest = next(self._files, ("", [], iter(())))
        self.registered = bool(name) and (entry := registered(folder, name)) is not None and entry.ranking
        others = (row for _, begun, rest in self._files for row in chain(begun, rest))
        self._rows = chain(self.first, rest, others)

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def _wanted(self, path: Path, split: str) -> Iterator[tuple[str, list[Row], Iterator[Row]]]:
        for name, rows in read_files(path, split):
            entry = registered(self._folder, name)
            if self._whole and entry is not None and not entry.ranking:
                self.skipped[name] = "registered without `ranking` in dataset_info.json"
                continue
            try:
                first = list(islice(rows, SNIFFED))
            except NotRowsError:
                if not self._whole:
                    raise
                self.skipped[name] = "no list of rows"
                continue
            whole = [row.data for row in first if row.error is None]
            if self._whole and entry is None and whole and not any(has_rejected(data) for data in whole):
                self.skipped[name] = "no rejected answer in its first rows"
                continue
            yield name, first, rows


def has_rejected(row: Mapping[str, Any]) -> bool:
    """True if a row has a worse answer under any name that projects use; a null is none."""
    for key, value in row.items():
        if value in (None, "", []):
            continue
        if REJECTED_SIDE.search(str(key).lower()):
            return True
        if key == "responses" and isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            return True
        if key in BOTH_SIDES:
            if key != "text" or (isinstance(value, Mapping) and "rejected" in value):
                return True
            if isinstance(value, str) and '"rejected"' in value:
                return True
    return False


def is_question(row: Mapping[str, Any]) -> bool:
    """True if a row asks or answers something, as benchmarks' questions, captions and instruction data do."""
    return any(ASKED.fullmatch(str(key).lower()) for key in row)
