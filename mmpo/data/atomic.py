"""Files that are whole or absent. Everything a run leaves behind goes through here.

A whole file is written beside its place, flushed to the disk and renamed onto it; a log (JSON Lines) only grows, and a
line that a killed process left half-written is cut off when the log is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmpo.data.outside import Unreadable, json_of
from mmpo.errors import UserError

LEFTOVER = ".{name}.tmp"


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` so that a reader sees the old file or the new one, never a part; survives SIGKILL and power loss."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(LEFTOVER.format(name=path.name))
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    return write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Indented JSON with the keys in the order given, and a final newline. Refuses NaN: other readers can't read it."""
    return write_bytes(path, _json(value, indent=2))


def read_json(path: str | Path) -> Any:
    path = Path(path)
    try:
        return json_of(path.read_bytes(), halves=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Unreadable as error:
        raise error.at(str(path)) from None


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that a killed `write_bytes` left in this folder."""
    for path in Path(folder).glob(LEFTOVER.format(name="*")):
        path.unlink(missing_ok=True)


class JsonLines:
    """A log of JSON rows that survives being killed: `append` adds one line, `sync` puts the lines on the disk.

    Opening an existing log cuts off a half-written last line. Use it in a `with` block, or call `close`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = cut_half_line(self.path)
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()

    def append(self, row: Mapping[str, Any]) -> None:
        self._file.write(_json(row))
        self.rows += 1

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows only: what came after them belongs to work that will be done again."""
        self._file.flush()
        with open(self.path, "r+b") as file:
            for _ in range(rows):
                file.readline()
            file.truncate(file.tell())
        self.rows = min(self.rows, rows)

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one row durably. For many rows keep a `JsonLines` open instead: this flushes to the disk every time."""
    with JsonLines(path) as log:
        log.append(row)


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a log that `JsonLines` wrote, without a half-written last line. UserError for any other bad line."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json_of(line, halves=True)
            except Unreadable as error:
                raise error.at(f"{path}:{number}", lines=False) from None


def cut_half_line(path: str | Path) -> int:
    """Cut a half-written last line off a log, if there is one. Returns the number of whole lines; 0 for no file."""
    path = Path(path)
    if not path.exists():
        return 0
    rows = whole = 0
    with open(path, "r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                rows += 1
                whole += len(line)
        file.truncate(whole)
    return rows


def _json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON and a newline. Half a surrogate pair, which UTF-8 can't hold, makes the whole text ASCII escapes."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n"


def _sync_folder(folder: Path) -> None:
    """Put the rename itself on the disk. Not every file system can; the rename still holds."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
