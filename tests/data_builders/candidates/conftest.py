"""A tiny model that says one of several things of any picture, and pictures that nobody annotated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_builders import parrot
from tests.data_builders.candidates import world
from tests.tiny import save_model


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that was trained on several descriptions at once, so that its samples differ."""
    says = [(world.DESCRIBE, text) for text in world.SAYS]
    asked = [(parrot.question(name), answer) for name, answer in world.ANSWERS.items()]
    return save_model(parrot.teach([*says, *asked], steps=90), tmp_path_factory.mktemp("talker"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten photos: one is cut short, one is a copy of another, made smaller."""
    return world.write_photos(tmp_path_factory.mktemp("photos"))
