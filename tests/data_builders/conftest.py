"""A small annotated folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_builders import parrot


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotation file of twelve pictures: one of them cut short, one without objects."""
    return parrot.write_world(tmp_path_factory.mktemp("world"), 12)
