"""Plug-ins on Python's path, in a process that has loaded none, and that has loaded none afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmpo import plugins
from tests.cli.conftest import here, mmpo, pairs, photos, recipe
from tests.tiny import save_model
from tests.tiny_families import tiny_vip

__all__ = ["here", "mmpo", "pairs", "photos", "recipe"]

EXAMPLE = Path(__file__).parents[1] / "plugin_example"


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Calling it forgets every plug-in, as a new process has none."""
    import mmpo.data.convert.run
    import mmpo.eval.task
    import mmpo.models.families.records
    import mmpo.objectives
    import mmpo.recipes  # noqa: F401  (all registries are there now)
    from mmpo.eval.scoring import scorers

    scorers()

    registries = [(one, dict(one._things), dict(one._owners)) for one in plugins.registries]  # type: ignore[attr-defined]
    loaded, installed, modules = dict(plugins._loaded), plugins._installed, set(sys.modules)

    def forget() -> None:
        monkeypatch.setenv(plugins.HANDED_ON, "")
        for registry, things, owners in registries:
            registry._things, registry._owners = dict(things), dict(owners)  # type: ignore[attr-defined]
        plugins._loaded.clear()
        plugins._installed = "not yet"
        plugins._distributions.cache_clear()
        for name in set(sys.modules) - modules:
            if not name.startswith(("mmpo", "tests")) and "site-packages" not in str(sys.modules[name].__spec__):
                del sys.modules[name]

    forget()
    yield forget
    forget()
    plugins._loaded.update(loaded)
    plugins._installed = installed


@pytest.fixture
def example(new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worked example, on Python's path but not installed; its folder of modules."""
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    return EXAMPLE / "src" / "absent_objects"


@pytest.fixture
def module(here: Path, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`module("mine", "text")` writes a module that Python finds."""
    folder = here / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> Path:
        file = folder / f"{name}.py"
        file.write_text(text)
        return file

    return write


@pytest.fixture(scope="session")
def tiny_vip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny ViP-LLaVA: a model type that mmpo has no record of."""
    return save_model(tiny_vip(), tmp_path_factory.mktemp("tiny-vip"))
