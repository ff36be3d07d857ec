"""The builders there are: the settings of a recipe's `build` section decide by their `builder` which one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, Discriminator, Tag

from mmpo.data.card import read_card
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.data_builders.video.settings import VideoRewardSettings
from mmpo.errors import UserError
from mmpo.registry import Registry
from mmpo.settings import Settings

DEFAULT = "hallucination_pairs"

Look = Callable[[Any], Iterable[tuple[Path, str]]]
Run = Callable[[Any, Path], None]


@dataclass(frozen=True)
class Builder:
    """A builder: the settings of its `build` section, whose `builder` is its name, and what does the work.

    `run(settings, folder)` writes the pairs into `folder / "pairs"` (`mmpo.data.shards.PairWriter`). It is a function,
    or `module:function` where importing it brings torch. What the latter returns is a record of what it made; for a
    function that is made from the card of its pairs. `look` names the pictures of the source before anything runs, as
    (folder, path), and raises `UserError` for a source that `run` would refuse.
    """

    settings: type[Settings]
    run: str | Run
    look: Look | None = None


_OWN = {
    DEFAULT: Builder(BuildSettings, "mmpo.data_builders.hallucination.build:build"),
    "video_rewards": Builder(VideoRewardSettings, "mmpo.data_builders.video.build:build"),
    "radiology": Builder(RadiologySettings, "mmpo.data_builders.radiology.build:build"),
    "mia": Builder(MiaSettings, "mmpo.data_builders.mia.build:build"),
}
BUILDERS: Registry[Builder] = Registry("builders", _OWN)


def register(name: str, settings: type[Settings], *, look: Look | None = None) -> Callable[[Run], Run]:
    """Make a builder available by name: a decorator of its `run` (see `Builder`). Raises `UserError` where the settings
    have no `builder` that is this name and nothing else."""
    field = settings.model_fields.get("builder")
    if field is None or get_args(field.annotation) != (name,):
        raise UserError(f"{settings.__name__} has no `builder: Literal[{name!r}]`", hint=f"builder {name!r} needs it")

    def add(run: Run) -> Run:
        BUILDERS.add(name, Builder(settings, run, look), module=run.__module__)
        return run

    return add


class PairsBuilt(BaseModel):
    """What the builder of a plug-in made, from the card of its pairs. `pairs` is relative to the run
    folder; `images` are sources."""

    builder: str
    pairs: str
    images: int
    images_used: int
    pairs_made: int
    counts: dict[str, dict[str, int]]

    @classmethod
    def read(cls, builder: str, run_dir: Path) -> PairsBuilt:
        """Raises `UserError` where the builder left no whole set of pairs."""
        entry = read_card(run_dir / "pairs")["splits"]["train"]
        counts = {"sources": {"in": entry["sources"], "paired": entry["kept"], **entry["reasons"]}}
        return cls(
            builder=builder,
            pairs="pairs",
            images=entry["sources"],
            images_used=entry["kept"],
            pairs_made=entry["pairs"],
            counts=counts,
        )


def builder_of(section: Any) -> str:
    """The name of the builder that a section asks for."""
    if isinstance(section, Mapping):
        return str(section.get("builder", DEFAULT))
    return str(getattr(section, "builder", DEFAULT))


def _any_of(builders: Mapping[str, Builder]) -> Any:
    kinds = [Annotated[builder.settings, Tag(name)] for name, builder in builders.items()]
    return Annotated[Union[tuple(kinds)], Discriminator(builder_of)]  # noqa: UP007


AnyBuildSettings: Any = _any_of(_OWN)
"""The `build` section of a recipe: the settings of any of mmpo's builders, told apart by `builder`."""


def any_settings() -> Any:
    """`AnyBuildSettings`, with those of the builders that plug-ins brought."""
    return _any_of(BUILDERS) if len(BUILDERS) > len(_OWN) else AnyBuildSettings


def settings_class(section: Any) -> type[BaseModel]:
    """The settings of the builder that a section asks for (of the default one where there is none of that name)."""
    found = BUILDERS.get(builder_of(section))
    return BuildSettings if found is None else found.settings


def build(settings: BaseModel, run_dir: Path) -> BaseModel:
    """Run the builder that `settings` are for, and note which pictures are in its pairs."""
    from mmpo.data.image_digests import digests_of_pairs, read_digests, write_digests

    name = builder_of(settings)
    run = BUILDERS[name].run
    result: BaseModel
    if isinstance(run, str):
        module, _, function = run.partition(":")
        result = getattr(import_module(module), function)(settings, run_dir)
    else:
        run(settings, run_dir)
        result = PairsBuilt.read(name, run_dir)
    pairs = Path(run_dir) / result.model_dump()["pairs"]
    if pairs.is_dir() and read_digests(pairs) is None:
        write_digests(pairs, digests_of_pairs(pairs))
    return result
