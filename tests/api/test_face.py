"""`import mmpo`: exactly the face, each name explained, nothing heavy loaded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import mmpo
from mmpo.api.answers import Answers, PhotoAnswer
from mmpo.api.model import Model
from mmpo.api.results import Built, Conversion, Evaluated, Trained
from mmpo.api.scores import PairScores
from tests.test_import import loaded_after

FACE = ["PreferencePair", "__version__", "ask", "build", "convert", "evaluate", "load", "losses", "score", "train"]
RECORDS = (Model, Answers, PhotoAnswer, PairScores, Built, Trained, Evaluated, Conversion, mmpo.PreferencePair)


def test_dir_is_the_face() -> None:
    assert dir(mmpo) == sorted(mmpo.__all__) == FACE
    for name in FACE:
        assert getattr(mmpo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mmpo.nonsense


def test_importing_it_loads_nothing_heavy() -> None:
    assert loaded_after("import mmpo; dir(mmpo); mmpo.__version__") == []
    loaded = loaded_after("import mmpo; [getattr(mmpo, name).__doc__ for name in dir(mmpo) if name != 'losses']")
    assert "torch" not in loaded and "transformers" not in loaded
    assert "torch" in loaded_after("import mmpo; mmpo.losses.dpo")


def test_submodules_do_not_take_the_place_of_functions() -> None:
    """A module of a function's name would, as soon as someone imports it."""
    for name in ("load", "ask", "score", "build", "train", "evaluate", "convert"):
        assert not isinstance(getattr(mmpo, name), ModuleType), name
        assert loaded_after(f"import importlib.util; assert importlib.util.find_spec('mmpo.{name}') is None") == []


def public(record: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(record).items():
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | classmethod)):
            yield f"{record.__name__}.{name}", member


def test_every_name_and_method_is_explained() -> None:
    for name in FACE:
        if name != "__version__":
            assert inspect.getdoc(getattr(mmpo, name)), name
    for name in ("load", "ask", "score", "build", "train", "evaluate", "convert"):
        text = inspect.getdoc(getattr(mmpo, name)) or ""
        assert "Raises:" in text and "`UserError`" in text, name
        told = text if name not in ("ask", "score") else text + (inspect.getdoc(getattr(Model, name)) or "")
        for parameter in inspect.signature(getattr(mmpo, name)).parameters:
            assert parameter in told or parameter in ("model", "options"), f"mmpo.{name}: {parameter}"
    for record in RECORDS:
        assert record.__doc__ and "object at" not in record.__doc__
        for name, member in public(record):
            if name not in ("PreferencePair.chosen_text", "PreferencePair.rejected_text"):
                assert getattr(member, "__doc__", None) or getattr(member, "__func__", None), name
    for name in dir(mmpo.losses):
        assert inspect.getdoc(getattr(mmpo.losses, name)), name
