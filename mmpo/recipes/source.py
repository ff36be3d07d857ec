"""Recipe text: YAML in, plain data and the line of every key out; `--set` overrides; `${...}` references."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import yaml

from mmpo.errors import UserError
from mmpo.outside import MAX_DEPTH, Unreadable, yaml_document, yaml_of

KeyPath = tuple[str, ...]
"""The place of a value: `("train", "objective", "dpo")`; list items by their number."""

MAX_VALUES, MAX_TEXT = 20_000, 1 << 20
"""The largest recipe after references: values, and characters of one text."""

REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def _core_schema(base: type) -> type:
    """`base` with YAML 1.2's scalars: unlike in PyYAML's 1.1, `1e-4` is a number and `on`, `no` or a date are text."""
    schema = type(f"Recipe{base.__name__}", (base,), {"yaml_implicit_resolvers": {}})
    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        (
            "float",
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
            list("-+.0123456789"),
        ),
        ("merge", r"<<", ["<"]),
    ):
        schema.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)  # type: ignore[attr-defined]
    return schema


_Loader: Any = _core_schema(yaml.SafeLoader)
_Dumper: Any = _core_schema(yaml.SafeDumper)


def _construct_int(loader: Any, node: Any) -> int:
    # PyYAML's own reads 010 as octal; YAML 1.2 writes octal 0o10.
    text = str(node.value)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def dump(data: Any) -> str:
    """`data` as YAML that `parse` reads back unchanged."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def parse_value(text: str) -> Any:
    """One YAML value, as in `--set train.lr=1e-4`. Raises `Unreadable`."""
    return yaml_of(text, _Loader)


@dataclass
class RecipeSource:
    """Recipe data with the place each value came from."""

    where: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: Sequence[str | int]) -> str:
        """`recipe.yaml:12` (or `--set a.b=c`) for the nearest value at or above `path`, or one that `--set` put below
        it where nothing else made it."""
        whole = at = tuple(str(part) for part in path)
        while at:
            if at in self.overrides:
                return f"--set {self.overrides[at]}"
            if at in self.lines:
                return f"{self.where}:{self.lines[at]}"
            if at == whole:
                below = [setting for given, setting in self.overrides.items() if given[: len(at)] == at]
                if below:
                    return f"--set {below[0]}"
            at = at[:-1]
        return self.where

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the nearest value at or above `path`; 0 where none is in the file."""
        at = tuple(str(part) for part in path)
        return next((self.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.lines), 0)


def parse(text: str, where: str) -> RecipeSource:
    """Read recipe text; `where` names it in errors.

    Raises UserError for bad YAML, a key given twice, or a document that is not a mapping.
    """
    try:
        node, data = yaml_document(text, _Loader)
    except Unreadable as error:
        raise error.at(where) from error
    if node is None:
        raise UserError(f"{where}: the recipe is empty", hint="`mmpo recipe list` names complete ones to start from")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}:{node.start_mark.line + 1}: a recipe is a mapping with sections such as `build:`")
    lines: dict[KeyPath, int] = {}
    _note_lines(node, (), lines)
    return RecipeSource(where, data, lines)


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = (*path, str(key.value))
            lines[at] = key.start_mark.line + 1
            _note_lines(value, at, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            at = (*path, str(number))
            lines[at] = value.start_mark.line + 1
            _note_lines(value, at, lines)


def override(source: RecipeSource, settings: Sequence[str]) -> None:
    """Apply `a.b=c` settings in place; later ones win. Values are YAML: `1e-4`, `true`, `[1, 2]`, `{k: v}`."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        if not equals or not all(path):
            raise UserError(
                f"--set {setting}: not of the form key.key=value", hint="for example --set train.max_steps=50"
            )
        if len(path) > MAX_DEPTH:
            raise UserError(f"--set {setting:.80}: more than {MAX_DEPTH} keys inside one another")
        try:
            value = parse_value(text)
        except Unreadable as error:
            raise UserError(
                f"--set {setting:.80}: the value is {error.problem}",
                hint=error.hint or f"quote it: --set '{name}=\"{text:.60}\"'",
            ) from error
        _put(source.data, path, value, setting)
        for line in [at for at in source.lines if at[: len(path)] == path]:
            del source.lines[line]  # what stood there is gone
        for earlier in [at for at in source.overrides if at[: len(path)] == path]:
            del source.overrides[earlier]
        source.overrides[path] = setting


def _put(data: Any, path: KeyPath, value: Any, setting: str) -> None:
    for depth, part in enumerate(path[:-1]):
        if isinstance(data, dict) and data.get(part) is None:
            data[part] = {}
        data = _step(data, part, path[: depth + 1], setting)
    if isinstance(data, dict):
        data[path[-1]] = value
    else:
        _step(data, path[-1], path, setting)
        data[int(path[-1])] = value


def _step(data: Any, part: str, path: KeyPath, setting: str) -> Any:
    if isinstance(data, dict):
        return data[part]
    if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
        return data[int(part)]
    above = ".".join(path[:-1])
    kind = f"a list of {len(data)}" if isinstance(data, list) else f"the value {data!r}"
    raise UserError(f"--set {setting}: {above} is {kind}, it has no {part!r}")


def get(data: Any, path: KeyPath) -> Any:
    """The value at `path` in nested mappings and lists; KeyError where there is none."""
    for part in path:
        if isinstance(data, Mapping):
            data = data[part]
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            raise KeyError(part)
    return data


def resolve(source: RecipeSource, given: Mapping[str, Callable[[], str]]) -> None:
    """Replace `${name}` in every text value, in place.

    A name is one of `given` (called when first needed) or the dotted path of another value of the recipe. A text that
    is one reference and nothing else takes the value with its type. Raises UserError for unknown names and circles.
    """
    known: dict[str, Any] = {}
    count = 0

    def value_of(name: str, at: KeyPath, trail: tuple[str, ...]) -> Any:
        if name in trail:
            raise UserError(f"{source.place(at)}: the references {' -> '.join((*trail, name))} run in a circle")
        if len(trail) > MAX_DEPTH:
            raise UserError(f"{source.place(at)}: references lead to references more than {MAX_DEPTH} times")
        if name in given:
            if name not in known:
                known[name] = given[name]()
            return known[name]
        try:
            found = get(source.data, tuple(name.split(".")))
        except KeyError:
            near = nearest(name, [*given, *(".".join(path) for path in source.lines)])
            raise UserError(f"{source.place(at)}: ${{{name}}} refers to nothing in this recipe", hint=near) from None
        return expand(found, tuple(name.split(".")), (*trail, name))

    def expand(value: Any, at: KeyPath, trail: tuple[str, ...] = ()) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(trail) + len(at) > 2 * MAX_DEPTH:
            problem = f"the references (`${{…}}`) make more than {MAX_VALUES:,} values"
            raise UserError(f"{source.place(at)}: {problem}", hint="write the values out")
        if isinstance(value, dict):
            return {key: expand(item, (*at, str(key)), trail) for key, item in value.items()}
        if isinstance(value, list):
            return [expand(item, (*at, str(number)), trail) for number, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = REFERENCE.fullmatch(value)
        if whole:
            return value_of(whole[1].strip(), at, trail)
        text = REFERENCE.sub(lambda match: str(value_of(match[1].strip(), at, trail)), value)
        if len(text) > MAX_TEXT:
            raise UserError(f"{source.place(at)}: the references (`${{…}}`) make a text of {len(text):,} characters")
        return text

    source.data = expand(source.data, ())


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean X?`, or the known words where none is near."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return "known here: " + ", ".join(known) if known else "nothing is known here"
