"""The builders there are: the settings of a recipe's `build` section decide by their `builder` which one runs."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, Discriminator, Tag

from mmpo import data_builders
from mmpo.data_builders.entry import Entry, Look, Run
from mmpo.errors import UserError
from mmpo.settings import Settings

DEFAULT = "hallucination_pairs"


def _own() -> Iterator[Entry]:
    """The builders that come with mmpo: every folder here with an `entry.py`."""
    for folder in pkgutil.iter_modules(data_builders.__path__, f"{data_builders.__name__}."):
        if folder.ispkg and find_spec(f"{folder.name}.entry"):
            yield import_module(f"{folder.name}.entry").ENTRY


BUILDERS: dict[str, Entry] = {entry.name: entry for entry in _own()}


def register(name: str, settings: type[Settings], *, look: Look | None = None) -> Callable[[Run], Run]:
    """Make a builder available by name: a decorator of its `run` (see `Entry`). Raises `UserError` for a name that is
    taken, and where the settings have no `builder` that is this name and nothing else."""
    field = settings.model_fields.get("builder")
    if field is None or get_args(field.annotation) != (name,):
        raise UserError(f"{settings.__name__} has no `builder: Literal[{name!r}]`", hint=f"builder {name!r} needs it")
    if name in BUILDERS:
        raise UserError(f"two builders are called {name!r}", hint="rename the second")

    def add(run: Run) -> Run:
        BUILDERS[name] = Entry(settings, run, look)
        return run

    return add


def builder_of(section: Any) -> str:
    """The name of the builder that a section asks for."""
    if isinstance(section, Mapping):
        return str(section.get("builder", DEFAULT))
    return str(getattr(section, "builder", DEFAULT))


def any_settings() -> Any:
    """The `build` section of a recipe: the settings of any builder, told apart by `builder`."""
    kinds = [Annotated[entry.settings, Tag(name)] for name, entry in BUILDERS.items()]
    return Annotated[Union[tuple(kinds)], Discriminator(builder_of)]  # noqa: UP007


def settings_class(section: Any) -> type[BaseModel]:
    """The settings of the builder that a section asks for (of the default one where there is none of that name)."""
    return BUILDERS.get(builder_of(section), BUILDERS[DEFAULT]).settings


def look(settings: Any) -> Iterator[tuple[Path, str]]:
    """The pictures that the source of a build names (see `Entry`)."""
    found = BUILDERS[builder_of(settings)].look
    return iter(()) if found is None else iter(found(settings))


def build(settings: BaseModel, run_dir: Path) -> BaseModel:
    """Run the builder that `settings` are for, and note which pictures are in its pairs."""
    from mmpo.data.image_digests import digests_of_pairs, read_digests, write_digests

    run = BUILDERS[builder_of(settings)].run
    if isinstance(run, str):
        module, _, function = run.partition(":")
        run = getattr(import_module(module), function)
    assert not isinstance(run, str)
    result = run(settings, run_dir)
    pairs = Path(run_dir) / result.model_dump()["pairs"]
    if pairs.is_dir() and read_digests(pairs) is None:
        write_digests(pairs, digests_of_pairs(pairs))
    return result
