"""`tools` is for checkouts: the wheel holds nothing of it, and the package does not need it."""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import find_packages
from setuptools.config.pyprojecttoml import read_configuration

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_package_alone() -> None:
    configured = read_configuration(str(ROOT / "pyproject.toml"), expand=False)["tool"]["setuptools"]
    found = configured["packages"]["find"]
    packages = find_packages(str(ROOT), include=found["include"])
    assert {name.split(".")[0] for name in packages} == {"mmpo"} and "mmpo.demo.radiology" in packages
    assert "tools.demo_models" in find_packages(str(ROOT)), "it would be found if it were asked for"
    assert set(configured["package-data"]) == {"mmpo"}


def test_the_package_imports_nothing_that_stays_in_the_checkout() -> None:
    found = []
    for file in (ROOT / "mmpo").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file}: {name}" for name in names if name.split(".")[0] in ("tools", "tests", "benchmarks")]
    assert found == []
