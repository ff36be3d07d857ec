"""Checkpoints that are whole or do not count.

A checkpoint is a folder that `transformers.Trainer` fills file by file. A process killed on the way leaves a folder
that looks like a checkpoint. So the last file written is a list of all the others with their sizes and digests; a
folder without that list, or one that does not match it, is ignored and later removed.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.files.atomic import file_digest, read_sealed, write_sealed

logger = logging.getLogger(__name__)

MARKER = "complete.json"
_PREFIX = "checkpoint-"


def mark_complete(folder: Path, **metadata: Any) -> None:
    """Put every file of the folder on the disk, then declare it whole. `facts` are kept with the declaration."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    made = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": file_digest(path)}
        for path in files
    }
    write_sealed(folder / MARKER, {**metadata, "files": made})


def metadata_of(folder: Path, *, thorough: bool = True) -> dict[str, Any] | None:
    """The declaration of `mark_complete`, or None if the checkpoint is not whole. `thorough` compares every byte, else
    only sizes."""
    return None if damaged_file(folder, thorough=thorough) is not None else read_sealed(folder / MARKER)


def damaged_file(folder: Path, *, thorough: bool = True) -> Path | None:
    """A file that makes the checkpoint not whole: gone, or not what was written. None where there is none."""
    try:
        files = read_sealed(folder / MARKER)["files"]
    except (UserError, OSError, KeyError):
        return folder / MARKER
    for name, made in files.items():
        path = folder / name
        size, digest = (made, None) if isinstance(made, int) else (made["bytes"], made["blake2b"])  # once only sizes
        try:
            if path.stat().st_size != size or (thorough and digest not in (None, file_digest(path))):
                return path
        except OSError:
            return path
    return None


def remove_damaged(root: Path) -> None:
    """Make the newest checkpoint one that is sound: remove what was declared whole and is damaged, and say so. Raises
    UserError where no sound one is left, for then the work would start over."""
    for folder in reversed(all_checkpoints(root)):
        if metadata_of(folder, thorough=False) is None and not (folder / MARKER).exists():
            continue  # never finished, which is no damage
        bad = damaged_file(folder)
        if bad is None:
            return
        if newest(root) is None:
            raise UserError(
                f"{bad}: damaged: it is not what training wrote, and there is no earlier checkpoint to continue from",
                hint=f"delete {folder} to train from the start",
            )
        logger.warning("%s: damaged: it is not what training wrote; going on from an earlier checkpoint", bad)
        _remove(folder)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def all_checkpoints(root: Path) -> list[Path]:
    """Every checkpoint folder, whole or not, oldest step first."""
    found = [path for path in root.glob(f"{_PREFIX}*") if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=step_of)


def newest(root: Path) -> Path | None:
    """The latest whole checkpoint."""
    return next((folder for folder in reversed(all_checkpoints(root)) if metadata_of(folder) is not None), None)


def prune(root: Path, keep: int) -> None:
    """Remove checkpoints that are not whole, and all but the newest `keep` that are."""
    whole = [folder for folder in all_checkpoints(root) if metadata_of(folder, thorough=False) is not None]
    kept = set(whole[-keep:] if keep else [])
    for folder in all_checkpoints(root):
        if folder not in kept:
            _remove(folder)


def _remove(folder: Path) -> None:
    (folder / MARKER).unlink(missing_ok=True)  # first: a removal cut short must not leave a whole-looking rest
    shutil.rmtree(folder)
