"""YAML within limits: depth, count, aliases, numbers, keys."""

from __future__ import annotations

import functools
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mmpo.outside.failures import Unreadable, first_line
from mmpo.outside.from_json import read_json
from mmpo.outside.limits import HALVES, MAX_DEPTH, MAX_NODES, MAX_YAML, half, size, too_deep, too_long
from mmpo.outside.text import read_text


def read_yaml(path: str | Path, loader: Any = yaml.SafeLoader) -> Any:
    """The value of a YAML file. UserError with file and line."""
    try:
        return yaml_of(read_text(path, MAX_YAML), loader)
    except Unreadable as error:
        raise error.at(str(path)) from None


def read_map(path: str | Path) -> Any:
    """JSON or YAML, by the file's name; keys can't be given twice."""
    return read_json(path, unique=True) if Path(path).suffix == ".json" else read_yaml(path)


_HINTS = {
    "mapping values are not allowed here": "text with a colon is put in quotes; a key inside another is indented",
    "expected <block end>, but found '<block mapping start>'": "keys of one section start in the same column",
    "expected ',' or '}', but got '<stream end>'": "a { is not closed",
    "expected ',' or ']', but got '<stream end>'": "a [ is not closed",
    "found unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a key is followed by a colon and a space",
}


def yaml_of(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """The value of a YAML text; None for an empty one. `loader` is SafeLoader or a subclass. Raises Unreadable."""
    return yaml_document(text, loader)[1]


def yaml_document(text: str, loader: Any = yaml.SafeLoader) -> tuple[yaml.Node | None, Any]:
    """The node, for its lines, and the value of a YAML text. Raises Unreadable."""
    if len(text) > MAX_YAML:
        raise Unreadable(f"more than {size(MAX_YAML)} of YAML", hint="write large tables as JSON")
    try:
        reader = _limited(loader)(text)
        node = reader.get_single_node()
        if node is None:
            return None, None
        _check_nodes(node)
        return node, reader.construct_document(node)
    except Unreadable:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        written = next(islice(text.splitlines(), mark.line, None), "") if mark else ""
        if "\t" in written[: len(written) - len(written.lstrip())] or "'\\t'" in (error.problem or ""):
            raise Unreadable("a tab; YAML is indented with spaces", line=line, hint="indent with spaces") from None
        hint = _HINTS.get(str(error.problem))
        raise Unreadable(f"not valid YAML: {error.problem or error.context or ''}", line=line, hint=hint) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(f"not valid YAML: the character {error.character:#x} is not allowed", line=line) from None
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        # PyYAML's constructors raise what Python's own raise: 2001-99-99, !!int x, a number of 5,000 digits
        raise Unreadable(f"not valid YAML: {first_line(error)}") from None


@functools.cache
def _limited(loader: type) -> Any:
    class Limited(loader):
        """`loader` that stops at depth and count."""

        nodes = depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.nodes, self.depth = self.nodes + 1, self.depth + 1
            line = self.peek_event().start_mark.line + 1
            if self.depth > MAX_DEPTH:
                raise too_deep(line)
            if self.nodes > MAX_NODES:
                raise Unreadable(f"more than {MAX_NODES:,} values", line=line, hint="write large tables as JSON")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Limited


def _check_nodes(root: yaml.Node) -> None:
    """Depth, count with every alias followed, numbers, half characters and keys. Raises Unreadable."""
    known: dict[int, tuple[int, int]] = {}  # of a node: values in it, depth below it
    open_nodes: set[int] = set()

    def refuse(node: yaml.Node, problem: str, hint: str) -> NoReturn:
        raise Unreadable(problem, line=node.start_mark.line + 1, hint=hint)

    def weigh(node: yaml.Node, path: tuple[str, ...]) -> tuple[int, int]:
        if id(node) in open_nodes:
            refuse(node, "an alias (`*name`) stands inside its own anchor", "write the value out")
        if id(node) in known:
            return known[id(node)]
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
            return 1, 0
        open_nodes.add(id(node))
        size, depth = 1, 0
        first: dict[tuple[str, str], int] = {}
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, item) for item in node.value]
        for key, value in pairs:
            below = path
            if key is not None:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                    below = (*path, key.value)
                    if (before := first.get((key.tag, key.value))) is not None:
                        raise Unreadable(f"{'.'.join(below)} is given twice (first in line {before})", line=line)
                    first[key.tag, key.value] = line
                size += weigh(key, path)[0]
            inner, deep = weigh(value, below)
            size, depth = size + inner, max(depth, deep + 1)
            if size > MAX_NODES:
                refuse(value, f"its aliases (`*name`) make more than {MAX_NODES:,} values", "write the values out")
            if depth > MAX_DEPTH:
                refuse(value, f"its aliases (`*name`) nest more than {MAX_DEPTH} deep", "write the values out")
        open_nodes.discard(id(node))
        known[id(node)] = size, depth
        return size, depth

    weigh(root, ())


def _check_scalar(node: yaml.ScalarNode) -> None:
    text, line = str(node.value), node.start_mark.line + 1
    if found := HALVES.search(text):
        raise half(found.group(), line)
    digits = text.replace("_", "")
    if (node.tag.endswith(":int") and len(digits) > 20) or (node.tag.endswith(":float") and _overflows(digits)):
        problem, hint = too_long(text)
        raise Unreadable(problem, line=line, hint=hint)


def _overflows(text: str) -> bool:
    """True if a number becomes infinite although its text does not contain `inf`."""
    try:
        return abs(float(text)) == float("inf") and "inf" not in text.lower()
    except ValueError:
        return False
