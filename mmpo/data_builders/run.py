"""One run of any builder: check the source, make the units of work that are missing, write the pairs, say what came.

    run_dir/
      source.json          what the build was started from; another source or other settings are refused
      units/00000.json …   what each unit of work gave: pairs without pictures, counts; whole or not there
      pairs/               the dataset: shards, card.json, README.md, rejects.jsonl
      build_result.json    the result in numbers; written last

Killed and restarted at any moment, a build continues behind its last unit and gives the same bytes. Nobody else works
in its folder meanwhile but the members of its team (`mmpo.team`): they share the units out, and one writes the pairs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel

import mmpo
from mmpo.claims import alone
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.data_builders.units import RESULT, Advance, Units, Work, check_source, check_sums, count_table, finish_units
from mmpo.errors import Quarantined
from mmpo.files.atomic import read_json, write_json
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.progress import task
from mmpo.resuming import deciding

logger = logging.getLogger("mmpo.build")


class Named(Protocol):
    """A source that a build processes: an image, a video, a report, a prompt."""

    @property
    def id(self) -> str: ...


class Result(Protocol):
    """A pydantic record of what a build made. In each table of `counts` the other rows add up to `in`."""

    counts: dict[str, dict[str, int]]

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...

    @classmethod
    def model_validate(cls, obj: Any) -> Any: ...


S = TypeVar("S", bound=BaseModel)
T = TypeVar("T", bound=Named)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Written:
    """The outcome for the sources: `table` has `in`, `paired` and the losses by reason."""

    table: dict[str, int]
    pairs: int


class Builder(ABC, Generic[S, T, R]):
    """The parts particular to one way of making pairs; `run` does the rest. One object does one build.

    The settings need `shard_size`, the sources in a unit of work. Those that decide no result, which may be others when
    a build is resumed, are named by `FREE` on their class (`mmpo.resuming`).
    """

    result: type[R]
    label: ClassVar[str]
    """The name of the work in progress displays."""
    title: ClassVar[str]
    """The heading of the dataset's page."""
    scores: Sequence[str] = ()
    called: ClassVar[Mapping[str, str]] = {}
    """Readable names for keys of `source`."""

    def __init__(self, settings: S, run_dir: Path) -> None:
        self.settings, self.run_dir = settings, run_dir
        self.recipe = deciding(settings)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that pairs are written to, below `run_dir`."""
        return ("pairs",)

    @abstractmethod
    def plan(self) -> Sequence[T]:
        """The sources, in order. `UserError` where there are none, or the settings don't fit them."""

    def source(self) -> dict[str, Any]:
        """The inputs that decide the result, as JSON data, one level deep below `settings`."""
        return {"settings": self.recipe, "mmpo": mmpo.__version__}

    def open(self, stack: ExitStack) -> Work[T]:
        """Load what the work needs, closed with the stack; called only where there is work. Returns what makes a unit:
        JSON data with `outcomes`, one of each source, whose `pairs` are counted, and maybe a `tally` of counters. By
        default nothing is made in advance, for builders whose `pairs` is quick."""
        return _nothing

    @abstractmethod
    def pairs(self, source: T, outcome: Mapping[str, Any], units: Units[T]) -> list[PreferencePair]:
        """The pairs of one outcome, at least one; raises `Quarantined` where there is none."""

    def folder_of(self, source: T) -> str:
        """The one of `folders` that the pairs of a source belong to."""
        return "pairs"

    @abstractmethod
    def summary(self, units: Units[T], written: Written) -> R:
        """The result in numbers."""

    def notes(self, result: R) -> str:
        """The text about the build on the dataset's page, in Markdown."""
        return count_table(result.counts)


def _nothing(number: int, part: Sequence[Named], advance: Advance) -> dict[str, Any]:
    advance(len(part))
    return {"outcomes": [{} for _ in part]}


@follows_links
@in_own_folder
def run(settings: S, run_dir: Path, kind: Callable[[S, Path], Builder[S, T, R]]) -> R:
    """Build the pairs of `settings` into `run_dir/pairs`. A finished build returns its result.

    Raises `UserError` for settings that don't fit the files or what is in `run_dir`. Sources that can't be used are
    counted and end in `pairs/rejects.jsonl`, never in an error.
    """
    run_dir = Path(run_dir)
    builder = kind(settings, run_dir)
    sources = builder.plan()
    check_source(run_dir, builder.source(), builder.called)
    if (run_dir / RESULT).exists():
        return _result(builder)
    size: int = builder.recipe["shard_size"]
    units = Units(sources, finish_units(run_dir / "units", sources, size, builder.label, builder.open))
    with alone(run_dir):
        if (run_dir / RESULT).exists():  # another member of the team was quicker
            return _result(builder)
        result = assemble(builder, units, {name: run_dir / name for name in builder.folders})
        write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def _result(builder: Builder[S, T, R]) -> R:
    found: R = builder.result.model_validate(read_json(builder.run_dir / RESULT))
    return found


def assemble(builder: Builder[S, T, R], units: Units[T], folders: Mapping[str, Path]) -> R:
    """Write the datasets from the finished units. It is quick, and resumes as the writers do."""
    writers = {name: PairWriter(path, recipe=builder.recipe, scores=builder.scores) for name, path in folders.items()}
    done = {name: writer.sources_done for name, writer in writers.items()}
    with task("writing pairs", total=len(units.sources)) as running:
        for source, outcome in units.outcomes():
            running.advance()
            name = builder.folder_of(source)
            if done[name]:  # written before this run was stopped
                done[name] -= 1
                continue
            try:
                pairs = builder.pairs(source, outcome, units)
            except Quarantined as error:
                writers[name].reject(source.id, error)
            else:
                writers[name].add(*pairs)
    table = Counter({"in": len(units.sources), "paired": sum(writer.counts.kept for writer in writers.values())})
    for writer in writers.values():
        table.update({reason.replace("/", ": "): count for reason, count in writer.counts.reasons.items()})
    result = builder.summary(units, Written(dict(table), sum(writer.counts.pairs for writer in writers.values())))
    check_sums(result.counts)
    for writer in writers.values():
        writer.close(title=builder.title, notes=builder.notes(result))
    return result
