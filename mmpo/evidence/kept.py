"""Findings on disk by picture and class, so that nothing is asked twice, also after a kill.

    folder/
      identity.json     what the source was; another one is refused
      findings.jsonl    a line a block of pictures, written when all of them are done; members of a team
                        (`mmpo.team`) have each their own beside it

A block is there whole or not at all, so what is computed again after a kill is computed in the same batches, and gives
the same numbers to the last digit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.evidence.records import SourceFinding, SourceFindings
from mmpo.files.atomic import JsonLines, read_json, seal_row, sound, write_json
from mmpo.outside import json_of
from mmpo.team import all_logs, own_log

log = logging.getLogger(__name__)


class FindingStore:
    """The findings of one source in one folder. Only places in the file are held in memory."""

    def __init__(self, folder: Path, identity: str, stack: ExitStack) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shared = folder / "findings.jsonl"
        self._path = own_log(shared)
        _check_identity(folder / "identity.json", identity)
        self._log = stack.enter_context(JsonLines(self._path))
        self._places: dict[str, list[tuple[Path, int]]] = {}
        self._end = 0
        for path in all_logs(shared):
            self._index(path)

    def get(self, key: str) -> dict[str, SourceFinding]:
        """What is known about a picture, by class."""
        found: dict[str, SourceFinding] = {}
        for path, place in self._places.get(key, ()):
            with open(path, "rb") as file:
                file.seek(place)
                row = json_of(file.readline(), halves=True)
                found |= {name: SourceFinding(*one) for name, one in row["found"][key].items()}
        return found

    def add(self, block: Mapping[str, SourceFindings]) -> None:
        """Keep the findings of a block of pictures, by picture. When this returns they are on the disk."""
        rows = {
            key: {name: [one.z, one.why, dict(one.detail)] for name, one in sorted(found.items())}
            for key, found in block.items()
            if found
        }
        if not rows:
            return
        self._log.append(seal_row({"found": rows}))
        self._log.sync()
        for key in rows:
            self._places.setdefault(key, []).append((self._path, self._end))
        self._end = self._path.stat().st_size

    def _index(self, path: Path) -> None:
        damaged = end = 0
        with open(path, "rb") as file:
            for line in file:
                row = _row(line)
                if row is not None:
                    for key in row["found"]:
                        self._places.setdefault(key, []).append((path, end))
                elif path == self._path or line.endswith(b"\n"):  # else another one is writing it
                    damaged += 1
                end += len(line)
        if path == self._path:
            self._end = end
        if damaged:
            log.warning("%s: %d damaged lines are skipped; what they held is looked for again", path, damaged)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json_of(line, halves=True)
    except ValueError:
        return None
    return row if sound(row) and isinstance(row.get("found"), dict) else None


def _check_identity(path: Path, identity: str) -> None:
    if not path.exists():
        write_json(path, {"identity": identity})
        return
    before = read_json(path).get("identity")
    if before != identity:
        raise UserError(
            f"{path.parent} holds the findings of another source of evidence ({_first_difference(before, identity)})",
            hint="build into a new folder, or delete this one: its findings are then made again",
        )


def _first_difference(before: Any, now: str) -> str:
    ones, others = str(before).split(), now.split()
    return next(
        (f"{one[:60]} then, {other[:60]} now" for one, other in zip(ones, others, strict=False) if one != other),
        json.dumps(before)[:60],
    )
