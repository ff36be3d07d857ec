"""A finished dataset to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.making import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    build(folder)
    return folder
