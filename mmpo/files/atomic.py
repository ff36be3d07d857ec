"""Files that are whole or absent. Everything a run leaves behind goes through here.

A whole file is written beside its place, flushed to the disk and renamed onto it; a log (JSON Lines) only grows, and a
line that a killed process left half-written is cut off when the log is opened again. What a later run continues from is
sealed: it holds a digest of itself, so that a bit that flips on the disk is noticed (`write_sealed`, `seal_row`).

Temporary names hold their process (`owners.tag`) and random digits, are always new (O_EXCL) and never follow a link;
what a dead process left is removed, what a living one is writing is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mmpo.errors import UserError
from mmpo.files import owners
from mmpo.outside import Unreadable, json_of

SEAL = "seal"
FORGOTTEN = 24 * 3600
"""Seconds after which a temporary file of another machine, of which nothing is known here, counts as left behind."""

_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.(?P<owner>{owners.TAG})\.[0-9a-f]{{8}}\.tmp", re.DOTALL)
_OF_NOBODY = re.compile(r"\..+\.tmp", re.DOTALL)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` so that a reader sees the old file or the new one, never a part; survives SIGKILL and power loss."""
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(data)
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """An empty file beside `path` to write into; it takes the place of `path` when the block is left well, and is
    removed when it is not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _temporary(path)
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    try:
        yield beside
        _sync(beside, os.O_RDWR)
        os.replace(beside, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a write to an open file names none, and the name beside it says nothing
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it takes the place of `path` (absent, empty, or with `overwrite` anything)
    when the block is left well, and is removed when it is not. What dead processes left of earlier tries goes first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    beside = _temporary(path)
    os.mkdir(beside)
    try:
        yield beside
        if overwrite and path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    return path.with_name(f".{_short(path.name)}.{owners.tag()}.{secrets.token_hex(4)}.tmp")


def _short(name: str) -> str:
    return os.fsencode(name)[:120].decode(errors="ignore")  # names may have 255 bytes


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


# --- seals ----------------------------------------------------------------------------------------------------------


def write_sealed(path: str | Path, value: Mapping[str, Any]) -> Path:
    """`write_json`, with the digest of the content under `seal`. The same content gives the same bytes."""
    return write_json(path, seal_row(value))


def read_sealed(path: str | Path, hint: str | None = None) -> dict[str, Any]:
    """The object that `write_sealed` wrote. UserError naming the file where it is no longer that; `hint` describes
    the cost of deleting it."""
    path = Path(path)
    remedy = hint or f"delete {path} and run the same command again"
    try:
        value = read_json(path)
    except UserError as error:
        raise UserError(error.message, hint=remedy if path.exists() else None) from None
    if not sound(value):
        raise UserError(f"{path}: damaged: it is not what was written (its seal does not fit)", hint=remedy)
    value.pop(SEAL, None)
    return dict(value)


def seal_row(value: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the digest of its content as JSON under `seal`."""
    plain = {name: item for name, item in value.items() if name != SEAL}
    return {SEAL: hashlib.blake2b(_json(plain), digest_size=8).hexdigest(), **plain}


def sound(row: Any) -> bool:
    """True if `row`, as read, is a row whose seal fits, or one without, as earlier versions wrote them. JSON reads
    back what it wrote, floats to the last bit."""
    try:
        return isinstance(row, dict) and (SEAL not in row or row[SEAL] == seal_row(row)[SEAL])
    except ValueError:  # a number that is none, which was never written
        return False


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 16 bytes as hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- leftovers ------------------------------------------------------------------------------------------------------


def remove_leftovers(folder: str | Path, name: str | None = None, *, deep: bool = False) -> None:
    """Delete what killed processes left of their writing in this folder (`deep`: and in those below): all of it, or
    that of the file or folder `name`. What belongs to a living process stays."""
    for root, folders, files in os.walk(folder):
        for entry in [*files, *folders]:
            found = _TEMPORARY.fullmatch(entry)
            if name is not None and (found is None or found["name"] != _short(name)):
                continue
            path = Path(root, entry)
            if _left_behind(path, found["owner"] if found else None, entry):
                _remove(path)
        folders[:] = [entry for entry in folders if not entry.startswith(".")] if deep else []


def _left_behind(path: Path, owner: str | None, entry: str) -> bool:
    if owner is None:
        return _OF_NOBODY.fullmatch(entry) is not None and not path.is_dir()  # as earlier versions called them
    alive = owners.lives(owner)
    if alive is None:
        try:
            return time.time() - path.lstat().st_mtime > FORGOTTEN
        except OSError:
            return False
    return not alive


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of an open file carry no name; those raised in the block carry this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


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
        with _naming(self.path):
            self._file.write(_json(row))
        self.rows += 1

    def sync(self) -> None:
        with _naming(self.path):
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

    def abandon(self) -> None:
        """Close without writing what is still buffered, as after a write that failed."""
        with suppress(OSError):
            self._file.raw.close()
        with suppress(OSError, ValueError):
            self._file.close()

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
    with suppress(OSError):
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
