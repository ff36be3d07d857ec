"""One line for a full disk, a folder that may not be written or a name that no disk takes, whichever library fails.

Python raises `OSError` with a number, Rust libraries (safetensors, tokenizers) and Arrow errors of their own with the
number in the text, torch's archive writer neither. An error that was raised while another was handled is found through
its chain.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmpo.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
_TORCH_WRITES = re.compile(r"inline_container|PytorchStreamWriter")
_LITTLE = 16 << 20
"""A disk with less free than this was full when torch's writer failed."""


def storage_error(error: BaseException, folder: Path | None = None) -> UserError | None:
    """The line for a disk that is full, read-only or closed to us; None for any other error. `folder` is where the work
    writes, named where the error names no file."""
    for one in _chain(error):
        if isinstance(one, UserError):
            continue
        number = _number(one, folder)
        at = getattr(one, "filename", None)
        place = str(at) if isinstance(at, str | os.PathLike) else str(folder) if folder else "the output"
        if number in FULL:
            return UserError(f"disk full while writing {place}", hint="free space and run the same command again")
        if number == errno.EFBIG:
            return UserError(
                f"{place}: larger than this account or disk allows for one file (ulimit -f)",
                hint="raise the limit and run the same command again",
            )
        if number == errno.EROFS:
            return UserError(f"{place}: the disk is read-only", hint="write to another folder, or mount it for writing")
        if number == errno.ENAMETOOLONG:
            return UserError(f"{place[:60]}…: the name is too long for this disk", hint="is it the right path?")
        if number in FORBIDDEN:
            return UserError(f"{place}: no permission", hint="check who owns it, or name another folder")
    return None


def _number(error: BaseException, folder: Path | None) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if _TORCH_WRITES.search(text) and folder is not None and folder.exists():
        return errno.ENOSPC if shutil.disk_usage(folder).free < _LITTLE else None
    if not isinstance(error, OSError) and type(error).__name__ not in ("SafetensorError", "Exception", "RuntimeError"):
        return None
    found = _NUMBER.search(text)
    return int(found[1]) if found else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
