"""What may import what: the layers of the package, no circles, and one meaning for each public name.

The package is read with `ast`, not imported, so imports inside functions are seen as well.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mmpo"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("settings", "packages", "plugins", "progress", "resuming", "run_log", "statistics", "storage", "types", "visible"),
    ("outside", "progress_display", "registry"),
    ("files",),
    ("runs", "team"),
    ("locks",),
    ("claims",),
    ("text",),
    ("video",),
    ("data",),
    ("chat",),
    ("radiology",),
    ("models", "objectives"),
    ("losses",),
    ("evidence",),
    ("data_builders", "trainers", "eval"),
    ("select",),
    ("report",),
    ("review",),
    ("diagnose",),
    ("demo",),
    ("recipes",),
    ("preflight",),
    ("pipeline",),
    ("rounds",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
"""From the bottom up. A room imports itself and the layers below its own: neither a layer above nor a neighbour."""

When = Literal["module", "function", "typing"]


@dataclass(frozen=True)
class Import:
    """`source` imports `target` (dotted names of modules), or `name` from it, in `line` of its file: when the `module`
    is loaded, when a `function` is called, or for the type checker alone."""

    source: str
    target: str
    name: str
    line: int
    when: When

    def __str__(self) -> str:
        return f"{self.source.replace('.', '/')}.py:{self.line} imports {self.target}"


@dataclass(frozen=True)
class Source:
    """A package as it is written: its modules' dotted names with their syntax trees."""

    package: str
    trees: Mapping[str, ast.Module]

    @classmethod
    def read(cls, folder: Path) -> Source:
        trees = {}
        for file in sorted(folder.rglob("*.py")):
            parts = (folder.name, *file.relative_to(folder).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)
            trees[name] = ast.parse(file.read_text(encoding="utf-8"))
        return cls(folder.name, trees)

    def room(self, module: str) -> str:
        """The file or folder right below the package that a module is in."""
        return module.split(".")[1] if "." in module else "__init__"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of a module of the package. `import PACKAGE` alone is none: it is how a version is read."""
        return tuple(self._imports())

    def _imports(self) -> Iterator[Import]:
        for source, tree in self.trees.items():
            for node, when in _import_statements(tree):
                if isinstance(node, ast.Import):
                    found = [(alias.name, "") for alias in node.names if alias.name != self.package]
                else:
                    assert not node.level, f"{source}: imports are absolute"
                    base = node.module or ""
                    found = [
                        (full, "") if (full := f"{base}.{alias.name}") in self.trees else (base, alias.name)
                        for alias in node.names
                        if (base, alias.name) != (self.package, "__version__")
                    ]
                for target, name in found:
                    if target.split(".")[0] == self.package:
                        yield Import(source, target, name, node.lineno, when)

    def public_names(self) -> Iterator[tuple[str, str]]:
        """(name, module) of each class, and of each other name in CapitalLetters that a module defines."""
        for module, tree in self.trees.items():
            for node in tree.body:
                for name in _defined(node):
                    if name[0].isupper() and not name.isupper() and "_" not in name:
                        yield name, module


def _import_statements(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
    def below(node: ast.AST, when: When) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
        for child in ast.iter_child_nodes(node):
            inner = when
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inner = "function"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "typing"
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child, when
            yield from below(child, inner)

    return below(tree, "module")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign) and not (isinstance(node.value, ast.Call) and _called(node.value) == "TypeVar"):
        return [target.id for target in node.targets if isinstance(target, ast.Name) and len(target.id) > 1]
    return []


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def upward(source: Source, layers: Iterable[Iterable[str]]) -> list[str]:
    """Imports of a layer above, or of another room of the same layer."""
    height = {room: number for number, layer in enumerate(layers) for room in layer}
    found = []
    for one in source.imports:
        here, there = source.room(one.source), source.room(one.target)
        if here != there and height[there] >= height[here]:
            found.append(f"{one}: {there} is not below {here}")
    return found


def circles(source: Source, *when: When) -> list[list[str]]:
    """Groups of modules that import one another, by imports of these kinds (Tarjan's strongly connected components)."""
    graph: dict[str, set[str]] = {module: set() for module in source.trees}
    for one in source.imports:
        if one.when in when and one.target in graph and one.target != one.source:
            graph[one.source].add(one.target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        open_.append(module)
        for target in sorted(graph[module]):
            if target not in number:
                visit(target)
            if target in open_:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == number[module]:
            group = open_[open_.index(module) :]
            del open_[open_.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in number:
            visit(module)
    return sorted(found)


def several_meanings(source: Source) -> dict[str, list[str]]:
    """Public names that more than one module defines, and these modules."""
    places = defaultdict(list)
    for name, module in source.public_names():
        places[name].append(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


@pytest.fixture(scope="module")
def mmpo() -> Source:
    return Source.read(PACKAGE)


def test_every_room_has_one_layer(mmpo: Source) -> None:
    rooms = [room for layer in LAYERS for room in layer]
    assert sorted(rooms) == sorted({mmpo.room(module) for module in mmpo.trees})


def test_no_import_runs_upward(mmpo: Source) -> None:
    assert upward(mmpo, LAYERS) == []


def test_no_circle_of_files(mmpo: Source) -> None:
    assert circles(mmpo, "module") == []


def test_no_circle_that_imports_in_functions_hide(mmpo: Source) -> None:
    assert circles(mmpo, "module", "function") == []


def test_a_public_name_means_one_thing(mmpo: Source) -> None:
    assert several_meanings(mmpo) == {}


def test_no_private_name_is_imported(mmpo: Source) -> None:
    private = [
        f"{one} ({one.name})"
        for one in mmpo.imports
        if any(part.startswith("_") and not part.startswith("__") for part in [*one.target.split("."), one.name])
    ]
    assert private == []


def test_the_checks_see_what_they_look_for(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "low/__init__.py": "",
        "low/a.py": "import pack\nfrom pack import __version__\nfrom pack.low import b\nclass One: ...\n",
        "low/b.py": "def late():\n    from pack.low.a import One\nOne = int\n",
        "low/c.py": "from pack.high import up\n",
        "low/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.low import e\n",
        "low/e.py": "import pack.low.d\n",
        "high.py": "import pack.low.a\nfrom pack.beside import x\n",
        "beside.py": "from pack.low.f import g\nclass Two: ...\n",
        "low/f.py": "import pack.low.h\ng = 1\n",
        "low/h.py": "import pack.low.f\nclass Two: ...\n",
    }
    for name, text in files.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    source = Source.read(tmp_path / "pack")
    assert upward(source, [["low"], ["high", "beside"], ["__init__"]]) == [
        "pack/high.py:2 imports pack.beside: beside is not below high",
        "pack/low/c.py:1 imports pack.high: high is not below low",
    ]
    assert circles(source, "module") == [["pack.low.f", "pack.low.h"]]
    assert circles(source, "module", "function") == [["pack.low.a", "pack.low.b"], ["pack.low.f", "pack.low.h"]]
    assert several_meanings(source) == {"One": ["pack.low.a", "pack.low.b"], "Two": ["pack.beside", "pack.low.h"]}
