"""The small recipe material of the command line's tests, and a tiny model that is loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mmpo
from mmpo.api.model import Model
from tests.cli.conftest import here, pairs, photos

__all__ = ["here", "model", "pairs", "photos"]


@pytest.fixture(scope="session")
def model(tiny_llava_folder: Path) -> Iterator[Model]:
    """A tiny random LLaVA without an adapter."""
    with mmpo.load(tiny_llava_folder, dtype="float32") as loaded:
        yield loaded
