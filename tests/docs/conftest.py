"""A command line in a folder of its own, with the files of docs/adding-an-objective.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import here, mmpo, pairs, photos
from tests.plugins.conftest import new_process

__all__ = ["here", "mmpo", "new_process", "pairs", "photos"]

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-objective.md"


@pytest.fixture
def files(here: Path, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files in the current folder, which Python looks into."""
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (here / name).write_text(code, encoding="utf-8")
    (golden,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (here / "golden.json").write_text(golden, encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return here
