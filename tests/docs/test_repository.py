"""The files of the repository beside the code: one version everywhere, and workflows that call what is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import mmpo

ROOT = Path(__file__).parents[2]


def test_the_version_is_one() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project[1] == citation["version"] == mmpo.__version__


def test_scripts_of_workflows_and_release_list_are_there() -> None:
    texts = [path.read_text() for path in (*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / "RELEASING.md")]
    named = {name for text in texts for name in re.findall(r"scripts/[\w-]+", text)}
    assert len(named) >= 4
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o100, name


def test_workflows_and_forms_are_yaml() -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text()), path
