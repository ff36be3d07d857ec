"""What resumable builds share: units of work that are whole or not there, and a folder that remembers its source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpo.data.atomic import read_json, write_json
from mmpo.errors import UserError


def unit_path(folder: Path, number: int) -> Path:
    """The file of one finished unit."""
    return folder / f"{number:05d}.json"


def check_source(run_dir: Path, source: Mapping[str, Any]) -> None:
    """Write `source.json`, or compare with the one that is there. UserError for a folder that was begun otherwise;
    `source` is a map of settings, versions and digests, one level deep below `settings`."""
    path = run_dir / "source.json"
    if not path.exists():
        write_json(path, source)
        return
    old, new = _flat(read_json(path)), _flat(source)
    changed = next((key for key in {**new, **old} if old.get(key) != new.get(key)), None)
    if changed is not None:
        raise UserError(
            f"{run_dir} holds a build with another `{changed}`", hint="build into a new folder, or delete this one"
        )


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    return {**state.get("settings", {}), **{key: value for key, value in state.items() if key != "settings"}}


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def ordered(table: Mapping[str, int], first: tuple[str, ...] = ("in", "paired")) -> dict[str, int]:
    """`first`, then the losses by name."""
    head = {key: table.get(key, 0) for key in first}
    return head | {key: table[key] for key in sorted(table) if key not in first and table[key]}


def check_sums(counts: Mapping[str, Mapping[str, int]]) -> None:
    """RuntimeError unless in each table the other rows add up to `in`."""
    for name, table in counts.items():
        if table.get("in", 0) != sum(table.values()) - table.get("in", 0):
            raise RuntimeError(f"the counts of {name} do not add up: {dict(table)}")


def count_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """The counts as a Markdown table."""
    lines = ["| what | where it went | count |", "| --- | --- | ---: |"]
    lines += [f"| {kind} | {key} | {count} |" for kind, table in counts.items() for key, count in table.items()]
    return "\n".join(lines)


def add_up(into: dict[str, Counter[str]], tally: Mapping[str, Mapping[str, int]]) -> None:
    """Add one unit's counters to the totals."""
    for name, counts in tally.items():
        into.setdefault(name, Counter()).update(counts)
