"""Recipes: one YAML file that describes a build, a selection, a training run, an evaluation, or all of them.

`load` takes the name of a shipped recipe or a file, applies overrides, fills in what follows from the earlier sections
(`train.pairs` from the selection or the build, `eval.adapter` from the training), resolves `${...}` and validates. The
YAML files in this folder are the shipped recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.recipes.schema import Recipe, import_plugins, keys_of, validate
from mmpo.recipes.source import RecipeSource, dump, get, nearest, override, parse, resolve

FOLDER = Path(__file__).parent

OUTPUTS = {"build.pairs": "build/pairs", "select.pairs": "select/pairs", "train.adapter": "train/adapter"}
"""Outputs of a step that later ones read: reference name, and place in the run folder."""

_TOP = {name: f"${{{name}}}" for name in ("model", "seed", "video_input")}

FOLLOWS: dict[str, dict[str, str]] = {
    "build": _TOP,
    "select": {**_TOP, "pairs": "${build.pairs}"},
    "train": {**_TOP, "pairs": "${select.pairs} ${build.pairs}"},
    "eval": {
        **_TOP,
        "adapter": "${train.adapter}",
        # the model that was trained is the one that is evaluated
        "quantize": "${train.quantize}",
        "trust_remote_code": "${train.trust_remote_code}",
    },
}
"""Defaults that a section takes over from the recipe's top and from the sections before it; of several references the
first that there is."""


def shipped() -> dict[str, Path]:
    """The recipes that come with mmpo, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_text(recipe: str) -> tuple[str, Path]:
    """The text of a recipe as it is written, and its file. `recipe` is a file or the name of a shipped recipe."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"no recipe file {recipe}", hint="`mmpo recipe list` names the shipped recipes")
    elif recipe in shipped():
        path = shipped()[recipe]
    else:
        known = nearest(recipe, list(shipped()))
        raise UserError(f"no shipped recipe is called {recipe}", hint=f"{known}; a file of your own ends in .yaml")
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{recipe} cannot be read: {error}") from error


def read(recipe: str) -> RecipeSource:
    """A recipe parsed, but not yet filled in, resolved or validated."""
    text, path = read_text(recipe)
    source = parse(text, str(path) if path.name != f"{recipe}.yaml" else path.name)
    source.data.setdefault("name", path.stem)
    return source


def load(
    recipe: str,
    *,
    run: Path,
    settings: Sequence[str] = (),
    inputs: Mapping[str, Callable[[], str]] | None = None,
) -> Recipe:
    """A validated recipe with nothing left to fill in.

    `run` is the folder that outputs are named in, `settings` are overrides such as `train.max_steps=50`, and `inputs`
    are further names for `${...}`, called only if the recipe uses them. Raises UserError for mistakes in the recipe.
    """
    source = read(recipe)
    override(source, settings)
    return complete(source, run=run, inputs=inputs)


def complete(source: RecipeSource, *, run: Path, inputs: Mapping[str, Callable[[], str]] | None = None) -> Recipe:
    """`load` for a recipe that is already read and overridden."""
    prepare(source, run=run, inputs=inputs)
    return validate(source)


def prepare(source: RecipeSource, *, run: Path, inputs: Mapping[str, Callable[[], str]] | None = None) -> None:
    """Import its plug-ins, fill in what follows from the sections before, and resolve `${...}`, in place."""
    import_plugins(source)
    _fill_in(source)
    given: dict[str, Callable[[], str]] = {"run": lambda: str(run), **(inputs or {})}
    for name, place in OUTPUTS.items():
        if source.data.get(name.partition(".")[0]) is not None:
            given[name] = lambda place=place: str(run / place)  # type: ignore[misc]
    resolve(source, given)


def _fill_in(source: RecipeSource) -> None:
    source.data.setdefault("seed", 0)
    for section, defaults in FOLLOWS.items():
        data = source.data.get(section)
        if not isinstance(data, dict):
            continue
        for key, references in defaults.items():
            for reference in references.split():
                name = reference.strip("${}")
                above: Any = source.data
                for part in (name.partition(".")[0],) if name in OUTPUTS else name.split("."):
                    above = above.get(part) if isinstance(above, dict) else None
                if key in keys_of(section, data) and key not in data and above is not None:
                    data[key] = reference


__all__ = ["Recipe", "complete", "dump", "get", "load", "override", "prepare", "read", "read_text", "shipped"]
