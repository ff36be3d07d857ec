"""The base of every block of settings, and what the package knows of a value beyond its type.

A block refuses unknown keys, text or truth values where a number belongs, and numbers that are none (NaN, infinity).
A field that names something outside the recipe says so in its annotation, for example

    annotations: Annotated[Path, ANNOTATIONS]

and `mmpo.preflight` looks at the thing before any work starts. No torch here: recipes and the command line import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

FieldKind = Literal[
    "file", "folder", "path", "annotations", "vocabulary", "pairs", "model", "detector", "adapter", "template",
    "output", "sampling",
]  # fmt: skip


@dataclass(frozen=True)
class Need:
    """The kind of thing that a field names: a file, a folder, either (`path`), annotated images, a vocabulary, pairs,
    a model, an object detector, an adapter, a judge's template, a way to choose frames, or a folder that is made
    (`output`). `words` are values that name nothing, such as `coco`; `fits` are endings of files that would do, listed
    if a folder is given.
    """

    kind: FieldKind
    words: tuple[str, ...] = ()
    fits: tuple[str, ...] = (".json", ".jsonl")


FILE, FOLDER, PATH = Need("file"), Need("folder"), Need("path")
ANNOTATIONS, PAIRS, MODEL, ADAPTER = Need("annotations"), Need("pairs"), Need("model"), Need("adapter")
DETECTOR = Need("detector")
TEMPLATE, OUTPUT, SAMPLING = Need("template"), Need("output"), Need("sampling")
VOCABULARY = Need("vocabulary", words=("coco", "auto"), fits=(".txt", ".json", ".yaml", ".yml"))
LEXICON = Need("file", fits=(".yaml", ".yml", ".json"))


class Settings(BaseModel):
    """A block of a recipe."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic reads "8" and true as numbers; in a recipe these are slips."""
        if isinstance(value, str | bool) and info.field_name is not None:
            members = _members(cls.model_fields[info.field_name].annotation)
            if members & {int, float} and not members & {str, bool} and type(value) in (str, bool):
                raise ValueError("must be a whole number" if float not in members else "must be a number")
        return value


def _members(annotation: Any) -> frozenset[Any]:
    try:
        return _parts(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return frozenset()


@cache
def _parts(annotation: Any) -> frozenset[Any]:
    """The types that a value may have; a literal counts as the type of its words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin is Literal:
        return frozenset(type(word) for word in get_args(annotation))
    if origin is Union or type(annotation).__name__ == "UnionType":
        return frozenset().union(*(_parts(part) for part in get_args(annotation)))
    return frozenset({annotation})
