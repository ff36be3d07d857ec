"""Answers on disk: each is stored under a key made of everything that decides it, so that no answer is ever asked
twice or reused wrongly.

The key covers the contents of the model's and the adapter's files, the number format, the image's bytes, the prompt
and the decoding. Training again into the same folder, or another picture under the same name, gives new keys; a run
that was killed finds what it had.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.files.atomic import SEAL, JsonLines, read_jsonl, seal_row, sound
from mmpo.files.fingerprints import file_fingerprint, folder_fingerprint, model_folder

__all__ = ["AnswerLog", "answer_key", "file_fingerprint", "folder_fingerprint", "model_folder"]


def answer_key(model: str, adapter: str | None, dtype: str, image: str, prompt: str, max_new_tokens: int) -> str:
    """The key of one greedy answer; `model`, `adapter` and `image` are content fingerprints."""
    parts = json.dumps([model, adapter, dtype, image, prompt, max_new_tokens, "greedy"])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


class AnswerLog:
    """`answers.jsonl`: one row an answer, appended as soon as it is there and flushed to the disk at least once a
    second.

    Opening it reads what an earlier run left; a half-written last line is dropped.
    """

    FLUSH_SECONDS = 1.0

    def __init__(self, path: Path) -> None:
        self._log = JsonLines(path)
        self._rows: dict[str, dict[str, Any]] = {}
        try:
            self._rows.update({row["key"]: row for row in _answer_rows(path)})
        except UserError:
            self._log.close()
            raise
        self._flushed = time.monotonic()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def add(self, row: dict[str, Any]) -> None:
        """Store an answer; `row["key"]` names it."""
        self._rows[row["key"]] = row
        self._log.append(seal_row(row))
        if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
            self._log.sync()
            self._flushed = time.monotonic()

    def note(self, notes: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> None:
        """Write the log again with `notes` by key; the columns `names` of earlier notes go. Whole or not at all."""
        rows = ({name: value for name, value in row.items() if name not in names} for row in self._rows.values())
        write_lines(self._log.path, (seal_row({**row, **notes.get(row["key"], {})}) for row in rows))

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


class AnswerCache:
    """Answers kept for other runs: a folder of logs, each written by one process, all read by every one.

    Processes may share it without a lock, since none writes into another's file; a half-written last line of a killed
    (or running) process is left alone. A file is made when there is something to write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, dict[str, Any]] = {}
        self._log: AnswerLog | None = None
        for path in sorted(folder.glob("answers-*.jsonl")):
            self._rows.update({row["key"]: row for row in _answer_rows(path)})

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def add(self, row: dict[str, Any]) -> None:
        """Store an answer for other runs."""
        if self._log is None:
            self._log = AnswerLog(self._folder / f"answers-{uuid.uuid4().hex[:12]}.jsonl")
        self._rows[row["key"]] = row
        self._log.add(row)

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.__exit__(kind, error, trace)


def _answer_rows(path: Path) -> Iterator[dict[str, Any]]:
    remedy = "delete this line to ask that again, or the file to ask everything again"
    rows = enumerate(read_jsonl(path), start=1)
    while True:
        try:
            number, row = next(rows, (0, None))
        except UserError as error:
            raise UserError(error.message, hint=remedy) from None
        if not number:
            return
        if not isinstance(row, dict) or not isinstance(row.get("key"), str) or not isinstance(row.get("answer"), str):
            raise UserError(f"{path}:{number}: not an answer (no `key` and `answer`)", hint=remedy)
        if not sound(row):
            raise UserError(f"{path}:{number}: damaged: not what was written (its seal does not fit)", hint=remedy)
        row.pop(SEAL, None)
        yield row
