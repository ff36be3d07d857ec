"""Checkpoints that are whole or do not count.

A checkpoint is a folder that `transformers.Trainer` fills file by file. A process killed on the way leaves a folder
that looks like a checkpoint. So the last file written is a list of all the others with their sizes; a folder without
that list, or one that does not match it, is ignored and later removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mmpo.data.atomic import write_json

MARKER = "complete.json"
_PREFIX = "checkpoint-"


def mark_complete(folder: Path, **facts: Any) -> None:
    """Put every file of the folder on the disk, then declare it whole. `facts` are kept with the declaration."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_json(folder / MARKER, {**facts, "files": sizes})


def facts_of(folder: Path) -> dict[str, Any] | None:
    """What `mark_complete` declared, or None if the checkpoint is not whole."""
    try:
        facts: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in facts["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return facts if whole else None


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def all_checkpoints(root: Path) -> list[Path]:
    """Every checkpoint folder, whole or not, oldest step first."""
    found = [path for path in root.glob(f"{_PREFIX}*") if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=step_of)


def newest(root: Path) -> Path | None:
    """The latest whole checkpoint."""
    return next((folder for folder in reversed(all_checkpoints(root)) if facts_of(folder) is not None), None)


def prune(root: Path, keep: int) -> None:
    """Remove checkpoints that are not whole, and all but the newest `keep` that are."""
    whole = [folder for folder in all_checkpoints(root) if facts_of(folder) is not None]
    kept = set(whole[-keep:] if keep else [])
    for folder in all_checkpoints(root):
        if folder not in kept:
            (folder / MARKER).unlink(missing_ok=True)  # first: a removal cut short must not leave a whole-looking rest
            shutil.rmtree(folder)
