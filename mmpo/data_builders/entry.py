"""What the rest of mmpo knows of a builder, before anything of it that needs torch is imported.

A folder in `mmpo/data_builders` with an `entry.py` is a builder: its `ENTRY` is found by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from mmpo.settings import Settings

Look = Callable[[Any], Iterable[tuple[Path, str]]]
Run = Callable[[Any, Path], BaseModel]


@dataclass(frozen=True)
class Entry:
    """A builder: the settings of its `build` section, whose `builder` is its name, and what does the work.

    `run(settings, run_dir)` writes the pairs and returns a record of what it made (`mmpo.data_builders.run`). It is a
    function, or `module:function` where importing it brings torch. `look` names the pictures or videos of the source
    before anything runs, as (folder, path below it): the files are opened by the builder's own readers, so a mistake in
    them is told as the build would tell it, hours earlier. It raises `UserError` for a source that `run` would refuse.
    """

    settings: type[Settings]
    run: str | Run
    look: Look | None = None

    @property
    def name(self) -> str:
        """The one value that the setting `builder` can have."""
        name: str = get_args(self.settings.model_fields["builder"].annotation)[0]
        return name
