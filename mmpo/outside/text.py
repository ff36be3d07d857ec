"""The bytes and lines of a file that others wrote, as text: encodings, packing, sizes."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mmpo.errors import UserError
from mmpo.outside.failures import Unreadable
from mmpo.outside.limits import MAX_FILE, MAX_LINE, MAX_RATIO, SMALL, size


def read_text(path: str | Path, limit: int = MAX_FILE) -> str:
    """The file as text: UTF-8 with or without a byte-order mark, UTF-16 with one, gzip by its first bytes. UserError
    naming the bad line, and for a file of more than `limit` bytes.
    """
    path = Path(path)
    try:
        return decode(bytes_of(path, limit))
    except Unreadable as error:
        raise error.at(str(path)) from None


def decode(data: bytes) -> str:
    """UTF-8 with or without a byte-order mark, UTF-16 with one. Raises Unreadable naming the bad line."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(f"not {name} text", line=line, hint="save the file as UTF-8") from None


def bytes_of(path: Path, limit: int) -> bytes:
    """The file's bytes, unpacked."""
    with _opened(path) as file:
        size = path.stat().st_size
        if size > limit:
            raise _too_large(path, limit)
        start = file.read(2)
        data = start + file.read(limit)
    return _unpacked(path, data, limit) if start == b"\x1f\x8b" else data


def _unpacked(path: Path, data: bytes, limit: int) -> bytes:
    limit = min(limit, max(SMALL, MAX_RATIO * len(data)))
    whole = bytearray()
    try:
        while data:  # a gzip file may hold several members one after another
            member = zlib.decompressobj(wbits=31)
            whole += member.decompress(data, limit + 1 - len(whole))
            if len(whole) > limit:
                raise UserError(f"{path}: unpacks to more than {size(limit)}", hint="unpack it and look at it first")
            if not member.eof:
                raise UserError(f"{path} cannot be read: the gzip file is cut short", hint="is the download whole?")
            data = member.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise UserError(f"{path} cannot be read: {error}", hint="is the download whole?") from None
    return bytes(whole)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a file", hint="name the file in it")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: half a character or a null in the name
        if isinstance(error, Unreadable):
            raise
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _too_large(path: Path, limit: int) -> UserError:
    return UserError(f"{path}: larger than {size(limit)}", hint="split the file; is it the right one?")


def first_bytes(path: str | Path, count: int) -> bytes:
    """The first bytes of a file's text as UTF-8, without a byte-order mark (UTF-16 and gzip: all of them)."""
    path = Path(path)
    with _opened(path) as file:
        start = file.read(count)
    return read_text(path).encode("utf-8", "surrogatepass") if _packed(start) else start.removeprefix(UTF_8_MARK)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as text, read as it is needed (UTF-16 and gzip: whole)."""
    with _opened(path) as file:
        start = file.read(3)
        if _packed(start):
            yield io.StringIO(read_text(path))
        else:
            file.seek(0)
            yield io.TextIOWrapper(file, encoding="utf-8-sig")


UTF_8_MARK = b"\xef\xbb\xbf"


def _packed(start: bytes) -> bool:
    """True if a file that begins with `start` is no plain UTF-8 (but gzip or UTF-16)."""
    return start[:2] in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff")


def read_lines(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every line that is not blank, one in memory at a time (UTF-16 and gzip: all of them).
    UserError for a file of more than `limit` bytes."""
    path = Path(path)
    with _opened(path) as file:
        if limit is not None and path.stat().st_size > limit:
            raise _too_large(path, limit)
        start = file.read(3)
        if _packed(start):
            lines: Any = io.BytesIO(read_text(path).encode("utf-8", "surrogatepass"))
        else:
            lines = file
            file.seek(3 if start == UTF_8_MARK else 0)
        number = 0
        while line := lines.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise UserError(f"{path}:{number}: the line is longer than {size(MAX_LINE)}", hint="is it JSON Lines?")
            if line.strip():
                yield number, line
