"""What the tests of evaluations share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters, and twelve annotated images (two of them unusable). Leave the folder as it is."""
    from tests.eval.evaluating import make_world

    return make_world(tmp_path_factory.mktemp("world"))
