"""The builders there are: the settings of a recipe's `build` section decide by their `builder` which one runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Tag

from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.data_builders.video.settings import VideoRewardSettings

DEFAULT = "hallucination_pairs"

BUILDERS = {
    DEFAULT: "mmpo.data_builders.hallucination.build:build",
    "video_rewards": "mmpo.data_builders.video.build:build",
    "radiology": "mmpo.data_builders.radiology.build:build",
    "mia": "mmpo.data_builders.mia.build:build",
}
"""`function(settings, run_dir) -> result` of each builder. Imported late, for it brings torch."""


def builder_of(section: Any) -> str:
    """The name of the builder that a section asks for."""
    if isinstance(section, Mapping):
        return str(section.get("builder", DEFAULT))
    return str(getattr(section, "builder", DEFAULT))


AnyBuildSettings = Annotated[
    Annotated[BuildSettings, Tag(DEFAULT)]
    | Annotated[VideoRewardSettings, Tag("video_rewards")]
    | Annotated[RadiologySettings, Tag("radiology")]
    | Annotated[MiaSettings, Tag("mia")],
    Discriminator(builder_of),
]
"""The `build` section of a recipe."""


def settings_class(section: Any) -> type[BaseModel]:
    """The settings of the builder that a section asks for (of the default one where there is none of that name)."""
    return _SETTINGS.get(builder_of(section), BuildSettings)


_SETTINGS: dict[str, type[BaseModel]] = {
    DEFAULT: BuildSettings,
    "video_rewards": VideoRewardSettings,
    "radiology": RadiologySettings,
    "mia": MiaSettings,
}


def build(settings: BaseModel, run_dir: Path) -> BaseModel:
    """Run the builder that `settings` are for, and note which pictures are in its pairs."""
    from mmpo.data.image_digests import digests_of_pairs, read_digests, write_digests

    module, _, function = BUILDERS[builder_of(settings)].partition(":")
    result: BaseModel = getattr(import_module(module), function)(settings, run_dir)
    pairs = Path(run_dir) / result.model_dump()["pairs"]
    if pairs.is_dir() and read_digests(pairs) is None:
        write_digests(pairs, digests_of_pairs(pairs))
    return result
