"""Installed plug-ins: found when a registry is asked, switched off by MMPO_PLUGINS=off, never in the way; and plug-ins
in processes that this one starts."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from mmpo import plugins
from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES
from tests.cli.conftest import Invoke
from tests.plugins.in_a_worker import builders_and_plugins
from tests.plugins.test_mistakes import LOSS, Write


@pytest.fixture
def installed(module: Write, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`installed("mine", text, version="1.0")`: a module, and a distribution that names it as a plug-in."""
    monkeypatch.delenv(plugins.SWITCH, raising=False)

    def install(name: str, text: str, *, version: str = "1.0") -> None:
        module(name, text)
        folder = here / "modules" / f"{name}_dist-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (folder / "top_level.txt").write_text(f"{name}\n")
        (folder / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")

    return install


def test_an_installed_plug_in_is_there_without_a_word(installed: Callable[..., None]) -> None:
    installed("mine", LOSS.format(name="mine", function="mine"))
    assert "mine" not in sys.modules
    assert "mine" in OBJECTIVES
    assert not plugins.loaded()["mine"].listed
    assert plugins.loaded()["mine"].version.startswith("1.0, code ")


def test_off_leaves_it_alone(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    installed("mine", LOSS.format(name="mine", function="mine"))
    monkeypatch.setenv(plugins.SWITCH, "off")
    assert "mine" not in OBJECTIVES and "mine" not in sys.modules
    plugins.load("mine")
    assert "mine" in OBJECTIVES


def test_a_broken_one_is_one_warning_that_names_its_distribution(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installed("bad", LOSS.format(name="half", function="half") + "1 / 0\n", version="2.5")
    installed("good", LOSS.format(name="good", function="good"))
    with caplog.at_level(logging.WARNING):
        assert "good" in OBJECTIVES and "half" not in OBJECTIVES and "dpo" in OBJECTIVES
    [record] = [one for one in caplog.records if one.name == "mmpo.plugins"]
    message = record.getMessage()
    assert "the plug-in bad of bad-dist 2.5 is left out: bad fails when it is imported: bad.py:7" in message
    assert record.exc_info is None and "\n" not in message
    with pytest.raises(UserError, match=r"bad\.py:7: ZeroDivisionError"):
        plugins.load("bad")  # asked for by name it is an error


def test_what_a_recipe_lists_goes_before_what_is_installed(
    installed: Callable[..., None], module: Write, caplog: pytest.LogCaptureFixture
) -> None:
    installed("first", LOSS.format(name="same", function="f"))
    module("mine", LOSS.format(name="same", function="g"))
    plugins.load("mine")
    assert OBJECTIVES["same"].function.__module__ == "mine"
    assert "two objectives are called 'same': one of mine, one of first" in caplog.text


def test_only_the_plug_ins_in_use_decide_a_run(installed: Callable[..., None], module: Write) -> None:
    installed("used", LOSS.format(name="used_loss", function="f"))
    installed("idle", LOSS.format(name="idle_loss", function="f"))
    module("listed", "")
    plugins.load("listed")
    assert list(plugins.versions_of(["listed"], {"used_loss", "dpo"})) == ["listed", "used"]


def test_a_run_with_an_installed_one(mmpo: Invoke, installed: Callable[..., None], recipe: Path) -> None:
    installed("mine", LOSS.format(name="mine", function="mine"))
    installed("bad", "1 / 0\n")
    result = mmpo("recipe", "check", recipe, "--set", "train.objective={mine: {beta: 0.2}}")
    assert result.exit_code == 0, result.output
    assert "train  mine" in result.output


def test_the_example_names_itself_as_its_pyproject_says(example: Path) -> None:
    """An entry point of the worked example, without installing it: what its pyproject.toml would make."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    project = tomllib.loads((example.parents[1] / "pyproject.toml").read_text())["project"]
    [(name, value)] = project["entry-points"][plugins.GROUP].items()
    metadata.EntryPoint(name, value, plugins.GROUP).load()
    assert "capped_dpo" in OBJECTIVES


BUILDER = """\
from typing import Literal
from mmpo.data_builders.builders import register
from mmpo.settings import Settings

class Mine(Settings):
    builder: Literal["mine"]

@register("mine", Mine)
def build(settings, folder):
    pass
"""


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_a_worker_process_has_what_was_listed(module: Write, way: str) -> None:
    module("mine", BUILDER)
    plugins.load("mine")
    with multiprocessing.get_context(way).Pool(1) as pool:
        names, loaded = pool.apply(builders_and_plugins)
    assert "mine" in names and loaded == ["mine"]
