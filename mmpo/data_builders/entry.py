"""A builder as the rest of mmpo knows it, before anything of it that needs torch is imported.

A folder in `mmpo/data_builders` with an `entry.py` is a builder: its `ENTRY` is found by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from mmpo.settings import Settings

Look = Callable[[Any], Iterable[tuple[Path, str]]]
Run = Callable[[Any, Path], Any]


class PairsBuilt(BaseModel):
    """The result of a builder without numbers of its own. `pairs` is relative to the run folder; `images`: sources."""

    builder: str
    pairs: str = "pairs"
    images: int
    images_used: int
    pairs_made: int
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, builder: str, table: Mapping[str, int], pairs: int) -> PairsBuilt:
        """`table` counts the outcomes of the sources: `in`, `paired` and losses by reason."""
        used = table.get("paired", 0)
        counts = {"sources": dict(table)}
        return cls(builder=builder, images=table["in"], images_used=used, pairs_made=pairs, counts=counts)


@dataclass(frozen=True)
class Entry:
    """A builder: the settings of its `build` section, whose `builder` is its name, and what does the work.

    `run` is a `Builder` (`mmpo.data_builders.run`) or a function of the settings and the run folder, which writes
    `pairs` there and returns a record of what it made (None: the card of the pairs has it); `module:name` where
    importing it brings torch. `look` names the pictures or videos of the source before anything runs, as (folder, path
    below it): the files are opened by the builder's own readers, so a mistake in them is reported as the build
    would report it, hours earlier. It raises `UserError` for a source that `run` would refuse.
    """

    settings: type[Settings]
    run: str | Run
    look: Look | None = None

    @property
    def name(self) -> str:
        """The one value that the setting `builder` can have."""
        name: str = get_args(self.settings.model_fields["builder"].annotation)[0]
        return name
