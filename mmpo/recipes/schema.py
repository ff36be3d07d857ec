"""The shape of a recipe, and errors that say where it is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.data_builders.builders import BUILDERS, AnyBuildSettings, settings_class
from mmpo.data_builders.settings import BuildSettings
from mmpo.errors import UserError
from mmpo.eval.settings import EvalSettings
from mmpo.recipes.source import Path, Source, get, nearest
from mmpo.trainers.settings import TrainSettings


class Recipe(BaseModel):
    """One file for a build, a training run, an evaluation, or all three in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run folder; the file's name if left out."
    )
    description: str = Field("", description="One line for `mmpo recipe list`.")
    seed: int = Field(0, ge=0, description="Seed of every section that has none of its own.")
    model: str | None = Field(None, description="Model folder or hub name of every section that has none of its own.")
    video_input: VideoInput | None = Field(None, description=VIDEO_INPUT)
    build: AnyBuildSettings | None = None
    train: TrainSettings | None = None
    eval: EvalSettings | None = None

    def sections(self) -> tuple[str, ...]:
        """The sections that the recipe has, in the order they run."""
        return tuple(name for name in SECTIONS if getattr(self, name) is not None)


SECTIONS: dict[str, type[BaseModel]] = {"build": BuildSettings, "train": TrainSettings, "eval": EvalSettings}


def keys_of(section: str, data: Any) -> set[str]:
    """The keys that a section may have; a build's depend on its builder."""
    return set((settings_class(data) if section == "build" else SECTIONS[section]).model_fields)


def validate(source: Source) -> Recipe:
    """The recipe, or a UserError with one line for every mistake: place, key, what is wrong, the nearest known key."""
    try:
        return Recipe.model_validate(source.data)
    except ValidationError as error:
        mistakes = list(dict.fromkeys(_describe(source, mistake) for mistake in error.errors()))
        raise UserError("\n".join(mistakes), hint="`mmpo recipe show demo` prints a recipe that works") from error


def _describe(source: Source, mistake: Any) -> str:
    path, model = _locate(source.data, mistake["loc"])
    name = ".".join(path)
    if mistake["type"] == "extra_forbidden":
        return f"{source.place(path)}: {name}: unknown key; {nearest(path[-1], known_keys(model))}"
    if mistake["type"] == "missing":
        return f"{source.place(path[:-1])}: {name}: missing"
    if mistake["type"] == "union_tag_invalid":  # the union of a section's kinds, told apart by one key
        kinds = str(mistake["ctx"]["expected_tags"]).replace("'", "")
        path, name = (*path, "builder"), f"{name}.builder"
        return f"{source.place(path)}: {name}: should be one of {kinds} (it is {mistake['ctx']['tag']!r})"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict) else f" (it is {mistake['input']!r})"
    return f"{source.place(path)}: {name}: {message[:1].lower()}{message[1:]}{given}"


def _locate(data: Any, loc: tuple[int | str, ...]) -> tuple[Path, list[Any]]:
    """The path in the data that pydantic's `loc` means (it names union members too), and the models one level above."""
    path: list[str] = []
    models: list[Any] = [Recipe]
    for number, part in enumerate(loc):
        try:
            get(data, (*path, str(part)))
        except KeyError:
            if number < len(loc) - 1 or part in BUILDERS:
                continue
        path.append(str(part))
        if number < len(loc) - 1:
            models = [inner for model in models for inner in _models_of(model, str(part))]
    return tuple(path), models


def _models_of(model: Any, key: str) -> list[Any]:
    """The models that the value under `key` may have; `model` is a model class or another annotation."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(key)
        return _members(field.annotation) if field else []
    arguments = get_args(model)
    return _members(arguments[-1]) if arguments else []


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def known_keys(models: list[Any]) -> list[str]:
    """The keys that any of `models` accepts."""
    keys: dict[str, None] = {}
    for model in models:
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, field in model.model_fields.items():
                keys[field.alias or name] = None
    return list(keys)
