"""The definition of a format for the converter: how one row becomes pairs, and what writes its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from mmpo.data.card import Counts
from mmpo.data.convert.media import Media
from mmpo.data.convert.rows import Row
from mmpo.data.convert.visual_genome import VisualGenome
from mmpo.data.pair import PreferencePair
from mmpo.data.responses import ResponseGroup
from mmpo.errors import Quarantined


class Options(BaseModel):
    """Options of a reader (`--set KEY=VALUE`); this one has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class SourceContext:
    """The source as a whole, for readers. `images` is the folder that image paths start from."""

    source: Path
    images: Path
    options: Any

    @property
    def folder(self) -> Path:
        """The source itself where it is a folder, else the folder it lies in."""
        return self.source if self.source.is_dir() else self.source.parent

    @cached_property
    def visual_genome(self) -> VisualGenome:
        return VisualGenome(self.images)


Converts = PreferencePair | ResponseGroup
"""What a row becomes: pairs, or a group of responses."""

Reader = Callable[[Mapping[str, Any], Row, SourceContext], Iterable[Converts]]
"""One row to its pairs (or groups), at least one; raises Quarantined (or UserError) for a row that gives none."""


class Sink(Protocol):
    """Writes one folder. Every row ends in one `add` or one `reject`; `add` may raise Quarantined, then nothing of the
    row was written."""

    counts: Counts

    # Writers of pairs are never given groups (`run.py`).
    def add(self, *pairs: Any) -> None: ...

    def reject(self, id: str, error: Quarantined) -> None: ...

    def close(self, title: str, notes: str = "") -> None: ...


@dataclass(frozen=True)
class Format:
    """One format. `fits` recognizes it by the keys and values of a row; `media` lists how a writer may hold images,
    the usual way first."""

    name: str
    about: str
    read: Reader | None = None
    fits: Callable[[Mapping[str, Any]], bool] | None = None
    write: Callable[[Path, Media, Mapping[str, Any]], Sink] | None = None
    media: tuple[str, ...] = ()
    options: type[Options] = Options
