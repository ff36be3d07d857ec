"""The builders there are: the settings of a recipe's `build` section decide by their `builder` which one runs."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import BaseModel, Discriminator, Tag

from mmpo import data_builders
from mmpo.data.card import read_card
from mmpo.data_builders.entry import Entry, Look, PairsBuilt, Run
from mmpo.errors import UserError
from mmpo.registry import Registry
from mmpo.settings import Settings

DEFAULT = "hallucination_pairs"


def _own() -> Iterator[Entry]:
    """The builders that come with mmpo: every folder here with an `entry.py`."""
    for folder in pkgutil.iter_modules(data_builders.__path__, f"{data_builders.__name__}."):
        if folder.ispkg and find_spec(f"{folder.name}.entry"):
            yield import_module(f"{folder.name}.entry").ENTRY


_OWN: dict[str, Entry] = {entry.name: entry for entry in _own()}
BUILDERS: Registry[Entry] = Registry("builders", _OWN)
Made = TypeVar("Made", bound=Run)


def register(name: str, settings: type[Settings], *, look: Look | None = None) -> Callable[[Made], Made]:
    """Make a builder available by name: a decorator of its `run`, a function or a `Builder` (see `Entry`). Raises
    `UserError` for a name that is taken, and where the settings have no `builder` that is this name and nothing else.
    """
    field = settings.model_fields.get("builder")
    if field is None or get_args(field.annotation) != (name,):
        raise UserError(f"{settings.__name__} has no `builder: Literal[{name!r}]`", hint=f"builder {name!r} needs it")

    def add(run: Made) -> Made:
        BUILDERS.add(name, Entry(settings, run, look), module=run.__module__)
        return run

    return add


def builder_of(section: Any) -> str:
    """The name of the builder that a section asks for."""
    if isinstance(section, Mapping):
        return str(section.get("builder", DEFAULT))
    return str(getattr(section, "builder", DEFAULT))


def _any_of(builders: Mapping[str, Entry]) -> Any:
    kinds = [Annotated[entry.settings, Tag(name)] for name, entry in builders.items()]
    return Annotated[Union[tuple(kinds)], Discriminator(builder_of)]  # noqa: UP007


AnyBuildSettings: Any = _any_of(_OWN)
"""The `build` section of a recipe: the settings of any of mmpo's builders, chosen by `builder`."""


def any_settings() -> Any:
    """`AnyBuildSettings`, with those of the builders that plug-ins brought."""
    return _any_of(BUILDERS) if len(BUILDERS) > len(_OWN) else AnyBuildSettings


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

    name = builder_of(settings)
    run = BUILDERS[name].run
    if isinstance(run, str):
        module, _, name_there = run.partition(":")
        run = getattr(import_module(module), name_there)
    if isinstance(run, type):
        run = partial(import_module("mmpo.data_builders.run").run, kind=run)
    assert not isinstance(run, str)
    result = run(settings, run_dir)
    if result is None:
        written = read_card(run_dir / "pairs")["splits"]["train"]
        table = {"in": written["sources"], "paired": written["kept"], **written["reasons"]}
        result = PairsBuilt.of(name, table, written["pairs"])
    made = result.model_dump().get("pairs")  # none, for a builder that makes something else
    pairs = Path(run_dir) / (made or "pairs")
    if made and pairs.is_dir() and read_digests(pairs) is None:
        write_digests(pairs, digests_of_pairs(pairs))
    return result
