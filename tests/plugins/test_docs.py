"""docs/plugins.md shows the worked example as it is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugins.conftest import EXAMPLE

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"


def test_every_block_is_a_file_of_the_example_and_every_file_a_block() -> None:
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    files = [EXAMPLE / "pyproject.toml", *(EXAMPLE / "src" / "absent_objects").glob("*.py")]
    assert dict(blocks) == {file.name: file.read_text(encoding="utf-8") for file in files}
