"""What the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import here, mmpo, pairs, photos, recipe
from tests.diagnose.material import save_adapter
from tests.trainers.material import write_pairs

__all__ = ["here", "mmpo", "pairs", "photos", "recipe"]


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs about six pictures."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "twelve", 12)
