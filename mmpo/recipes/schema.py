"""The shape of a recipe, and errors that say where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mmpo import plugins
from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.data_builders.builders import BUILDERS, AnyBuildSettings, any_settings, settings_class
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.errors import UserError
from mmpo.eval.settings import EvalSettings, eval_settings
from mmpo.recipes.other_names import ours
from mmpo.recipes.problems import Problem, refusal
from mmpo.recipes.rounds import SeveralRounds
from mmpo.recipes.source import KeyPath, RecipeSource, get, nearest
from mmpo.select.settings import SelectSettings, select_settings
from mmpo.trainers.settings import TrainSettings


class Recipe(BaseModel):
    """One file for a build, a selection, a training run, an evaluation, or all of them in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run folder; the file's name if left out."
    )
    description: str = Field("", description="One line for `mmpo recipe list`.")
    seed: int = Field(0, ge=0, description="Seed of every section that has none of its own.")
    model: str | None = Field(None, description="Model folder or hub name of every section that has none of its own.")
    video_input: VideoInput | None = Field(None, description=VIDEO_INPUT)
    plugins: list[str] = Field(
        [], description="Modules that are imported first; they register objectives, benchmarks, builders or families."
    )
    rounds: SeveralRounds | None = Field(
        None, description="Build, train and evaluate several times, each time with the model of the time before."
    )
    build: AnyBuildSettings | None = None
    select: SelectSettings | None = None
    train: TrainSettings | None = None
    eval: EvalSettings | None = None

    def sections(self) -> tuple[str, ...]:
        """The sections that the recipe has, in the order they run."""
        return tuple(name for name in SECTIONS if getattr(self, name) is not None)


SECTIONS: dict[str, type[BaseModel]] = {
    "build": BuildSettings,
    "select": SelectSettings,
    "train": TrainSettings,
    "eval": EvalSettings,
}


def recipe_class() -> type[Recipe]:
    """The recipe with every builder, selector and benchmark that is registered by now."""
    build, selection, evaluation = any_settings(), select_settings(), eval_settings()
    if build is AnyBuildSettings and selection is SelectSettings and evaluation is EvalSettings:
        return Recipe
    return _recipe_class(build, selection, evaluation)


@cache
def _recipe_class(build: Any, selection: Any, evaluation: Any) -> type[Recipe]:
    sections = {"build": build, "select": selection, "eval": evaluation}
    fields: dict[str, Any] = {name: (kind | None, None) for name, kind in sections.items()}
    return create_model("Recipe", __base__=Recipe, **fields)


def keys_of(section: str, data: Any) -> set[str]:
    """The keys that a section may have; a build's depend on its builder."""
    known: dict[str, Callable[[], type[BaseModel]]] = {
        "build": lambda: settings_class(data), "select": select_settings, "eval": eval_settings
    }  # fmt: skip
    found = known.get(section, lambda: SECTIONS[section])()
    return set(found.model_fields)


def import_plugins(source: RecipeSource) -> None:
    """Import the modules that the recipe lists under `plugins:`. Raises one `UserError` for all that can't be, each
    with its line."""
    listed = source.data.get("plugins")
    problems: list[Problem] = []
    if listed is not None and not isinstance(listed, list):
        hint = f"plugins: [{listed}]" if isinstance(listed, str) else "for example plugins: [my_package.my_module]"
        problems.append(Problem(("plugins",), f"must be a list of modules (it is {listed!r})", hint))
    else:
        for number, module in enumerate(listed or ()):
            try:
                plugins.load(module)
            except UserError as error:
                problems.append(Problem(("plugins", str(number)), error.message, error.hint))
    if problems:
        raise refusal(source, problems)


def validate(source: RecipeSource) -> Recipe:
    """The recipe, or a UserError with one line for every mistake: place, key, what is wrong, the nearest known key."""
    recipe, problems = tolerant(source)
    if problems or recipe is None:
        raise refusal(source, problems)
    return recipe


def tolerant(source: RecipeSource) -> tuple[Recipe | None, list[Problem]]:
    """The recipe as far as it is right (what is wrong left out: a value, or the section that needs it), and every
    mistake. None where nothing of it is left."""
    data = source.data
    problems: list[Problem] = []
    for _ in range(_ROUNDS):
        try:
            return recipe_class().model_validate(data), problems
        except ValidationError as error:
            # What leaving them out leads to is no mistake of its own.
            known = {problem.path[:length] for problem in problems for length in range(len(problem.path) + 1)}
            found = [(mistake["type"], _describe(data, mistake)) for mistake in error.errors()]
            problems += dict.fromkeys(problem for _, problem in found if problem.path not in known)
            data = deepcopy(data)
            for kind, problem in found:
                _leave_out(data, kind, problem.path)
    return None, problems


_ROUNDS = 4


def _leave_out(data: dict[str, Any], kind: str, path: KeyPath) -> None:
    """Take the wrong value out of `data`; the whole section where that is not enough."""
    try:
        above = get(data, path[:-1])
    except KeyError:  # gone with what was around it
        return
    if kind not in ("missing", "union_tag_invalid") and len(path) > 1 and isinstance(above, dict) and path[-1] in above:
        del above[path[-1]]
    elif path:
        data.pop(path[0], None)


def _describe(data: Any, mistake: Any) -> Problem:
    path, model = _locate(data, mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return Problem(path, f"unknown key; {_meant(path, model)}")
    if mistake["type"] == "missing":
        return Problem(path, "missing", _WANTED.get(path))
    if mistake["type"] == "union_tag_invalid":  # the union of a section's kinds, distinguished by one key
        kinds = str(mistake["ctx"]["expected_tags"]).replace("'", "")
        return Problem((*path, "builder"), f"should be one of {kinds} (it is {mistake['ctx']['tag']!r})")
    if mistake["type"] == "dict_type":
        return Problem(path, f"must be names with values, such as {{name: value}} (it is {mistake['input']!r})")
    if mistake["type"] in ("model_type", "model_attributes_type"):
        return Problem(
            path, f"must be settings by name, such as {{{_example(path, model)}}} (it is {mistake['input']!r})"
        )
    if mistake["type"] == "path_type":
        return Problem(path, f"must be a path (it is {mistake['input']!r})")
    if mistake["type"] == "too_short" and not mistake["input"]:
        return Problem(path, "must not be empty")
    message = str(mistake["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict) else f" (it is {mistake['input']!r})"
    return Problem(path, f"{message[:1].lower()}{message[1:]}{given}")


def _example(path: KeyPath, models: list[Any]) -> str:
    """The first key of what stands under `path`, of which `models` are those above."""
    return f"{next(iter(known_keys([own for model in models for own in _models_of(model, path[-1])])), 'name')}: …"


_WANTED: dict[KeyPath, str] = {
    ("train", "pairs"): "a folder that `mmpo build` or `mmpo convert` made; with a build: section they are its own",
    ("train", "model"): "model: NAME at the top serves every section",
    ("select", "pairs"): "a folder that `mmpo build` or `mmpo convert` made; with a build: section they are its own",
    ("build", "model"): "model: NAME at the top serves every section",
    ("eval", "model"): "model: NAME at the top serves every section",
}


def _meant(path: KeyPath, models: list[Any]) -> str:
    """The key that an unknown one stands for: ours for another trainer's, the nearest, or where it belongs."""
    if translated := ours(path[-1]):
        return translated
    keys = known_keys(models)
    homes = [name for name, section in SECTIONS.items() if path[-1] in section.model_fields]
    if len(path) == 1 and homes and not get_close_matches(path[-1], keys, n=1, cutoff=0.8):
        return f"it belongs into {' or '.join(f'`{home}:`' for home in homes)}"
    return nearest(path[-1], keys)


def _locate(data: Any, loc: tuple[int | str, ...]) -> tuple[KeyPath, list[Any]]:
    """The path in the data that pydantic's `loc` means (it names union members too), and the models one level above."""
    path: list[str] = []
    models: list[Any] = [recipe_class()]
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
