"""Shared parts of resumable builds: units of work that are whole or not there, and a folder that records its source."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mmpo.claims import remove_claims, shared_out
from mmpo.data.pair import PreferencePair
from mmpo.errors import UserError
from mmpo.files.atomic import read_json, read_sealed, remove_leftovers, write_json, write_sealed, write_text
from mmpo.progress import task
from mmpo.resuming import has_work

T = TypeVar("T")
SOURCE = "source.json"
RESULT = "build_result.json"
TOTAL = ".total"
"""In a folder of units: how many there will be."""


class Advance(Protocol):
    """Reports that `steps` more items are done, with a short remark."""

    def __call__(self, steps: int = 1, note: str | None = None) -> None: ...


Work = Callable[[int, Sequence[T], Advance], Mapping[str, Any]]
"""Makes a unit: from its number and its items, whose progress it reports, to what its file holds."""


def unit_paths(folder: Path, items: int, size: int) -> list[Path]:
    """The files of all units of `items` items, `size` in each."""
    return [folder / f"{number:05d}.json" for number in range(math.ceil(items / size))]


def finish_units(
    folder: Path, items: Sequence[T], size: int, label: str, begin: Callable[[ExitStack], Work[T]]
) -> list[Path]:
    """Make the units of `items` that aren't there yet, `size` items in each; the files of all of them, in order. What
    the work needs is opened by `begin`, once and only if there is work, and closed with its stack.

    A unit's file follows from the settings, the items and its number alone. In a team (`mmpo.team`) the members share
    the units out by claims, and each goes on when all are there; a process anywhere that sees `folder` becomes one by
    running the same build inside `mmpo.team.working_in`."""
    paths = unit_paths(folder, len(items), size)
    parts = [items[number * size : (number + 1) * size] for number in range(len(paths))]
    done = [number for number, path in enumerate(paths) if path.exists()]
    pairs = sum(_pairs_in(paths[number]) for number in done)  # damage is found before hours of work
    if len(done) == len(paths):
        return paths
    remove_leftovers(folder)
    write_text(folder / TOTAL, f"{len(paths)}\n")
    with ExitStack() as stack, task(label, total=len(items)) as running:
        running.advance(sum(len(parts[number]) for number in done))

        def count(more: int, steps: int = 0) -> None:
            nonlocal pairs
            pairs += more
            running.advance(steps, f"{pairs:,} pairs" if pairs else None)

        mine = shared_out(
            paths,
            lambda number: paths[number].exists(),
            lambda number: count(_pairs_in(paths[number]), len(parts[number])),
        )
        work = None
        for number in stack.enter_context(closing(mine)):
            work = work or begin(stack)
            unit = work(number, parts[number], running.advance)
            count(sum(len(outcome.get("pairs", ())) for outcome in unit["outcomes"]))
            write_sealed(paths[number], unit)
    remove_claims(folder)
    return paths


def _pairs_in(path: Path) -> int:
    return sum(len(outcome.get("pairs", ())) for outcome in read_outcomes([path]))


def read_unit(path: Path) -> dict[str, Any]:
    """The content of a finished unit's file. UserError naming it where it is damaged."""
    return read_sealed(path, hint=f"delete {path} and run the same command again: only this part is made again")


def read_outcomes(units: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The outcome of each source of the finished units, in order."""
    for path in units:
        yield from read_unit(path)["outcomes"]


class Units(Generic[T]):
    """The finished units of a build over `sources`, read from their files one after another."""

    def __init__(self, sources: Sequence[T], paths: Sequence[Path]) -> None:
        self.sources, self._paths = sources, paths

    def outcomes(self) -> Iterator[tuple[T, dict[str, Any]]]:
        """Each source with what it gave, in order."""
        return zip(self.sources, read_outcomes(self._paths), strict=True)

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """The fields of each unit other than its outcomes."""
        units = (read_unit(path) for path in self._paths)
        return [{key: value for key, value in unit.items() if key != "outcomes"} for unit in units]

    @cached_property
    def tally(self) -> dict[str, Counter[str]]:
        """The counters of all units together; an empty one for any other name."""
        total: dict[str, Counter[str]] = defaultdict(Counter)
        for unit in self.facts:
            for name, counts in unit.get("tally", {}).items():
                total[name].update(counts)
        return total


def pair_of_row(row: Mapping[str, Any], picture: bytes) -> PreferencePair:
    """The pair of an outcome's row, which holds everything but the picture."""
    return PreferencePair.simple(
        id=row["id"],
        image=picture,
        question=row["question"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        chosen_weights=row.get("chosen_weights"),
        rejected_weights=row.get("rejected_weights"),
        provenance=row["provenance"],
    )


def check_source(run_dir: Path, source: Mapping[str, Any], called: Mapping[str, str] | None = None) -> None:
    """Write `source.json`, or compare with the one that is there. UserError for a folder with work of another source;
    `source` is a map of settings, versions and digests, one level deep below `settings`. `called` says what people call
    some of its keys; one that is also the name of a setting needs that, or would stand in its place."""
    path = run_dir / SOURCE
    if not path.exists() or not has_work(run_dir):
        write_json(path, source)
        return
    old, new = _flat(read_json(path), called or {}), _flat(source, called or {})
    changed = next((key for key in {**new, **old} if old.get(key) != new.get(key)), None)
    if changed is not None:
        raise UserError(
            f"{run_dir} holds a build with another `{changed}`", hint="build into a new folder, or delete this one"
        )


def _flat(state: Mapping[str, Any], called: Mapping[str, str]) -> dict[str, Any]:
    beside = {called.get(key, key): value for key, value in state.items() if key != "settings"}
    return {**state.get("settings", {}), **beside}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def file_digest(path: Path) -> str:
    return digest(path.read_bytes())


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
