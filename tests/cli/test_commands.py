"""What every command says: help, lists, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmpo.cli.app import DEFAULT, load_commands
from mmpo.errors import UserError
from tests.cli.conftest import Invoke


def every_command() -> dict[str, str]:
    """Help texts by commands as they are typed: `eval`, `eval score`, `recipe check` …"""

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        parts = getattr(command, "commands", {})
        if not parts or DEFAULT in parts:
            yield " ".join(words), command.help or ""
        for name, part in parts.items():
            if name != DEFAULT:
                yield from below(part, (*words, name))

    return dict(below(typer.main.get_command(load_commands()), ()))


@pytest.mark.parametrize("command", every_command())
def test_help_shows_usage_and_an_example(mmpo: Invoke, command: str) -> None:
    result = mmpo(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: mmpo {command} [OPTIONS]" in result.stdout
    after_heading = result.stdout.split("Example", 1)[1]
    assert f"\n   mmpo {command}" in after_heading, "indented, below its heading"


@pytest.mark.parametrize(("command", "text"), every_command().items())
def test_help_fits_a_terminal_of_80_columns(command: str, text: str) -> None:
    """Behind the first paragraph line ends are kept, so that a longer line comes out in two, the second with a word."""
    behind = text.partition("\n\n")[2]
    assert [line for line in behind.splitlines() if len(line) > 77] == [], command


def test_groups_say_what_else_they_have(mmpo: Invoke) -> None:
    assert len(every_command()) > 18
    text = mmpo("eval", "--help").stdout
    assert "mmpo eval score: Score answers made elsewhere" in text
    assert "mmpo radiology edit reports.jsonl" in mmpo("radiology").output


def test_the_top_help_names_every_command_in_order(mmpo: Invoke) -> None:
    text = mmpo("--help").stdout.split("Commands", 1)[1]
    places = [text.index(f"│ {name} ") for name in ("demo", "run", "build", "train", "eval", "recipe")]
    assert places == sorted(places)


def test_without_arguments_the_help_is_shown(mmpo: Invoke) -> None:
    assert "Usage: mmpo [OPTIONS] COMMAND" in mmpo().output


def test_version(mmpo: Invoke) -> None:
    import mmpo as package

    assert mmpo("--version").stdout.strip() == package.__version__


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "mmpo", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "demo"], "Did you mean 'train'?"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "demo", "--seed", "1"], "No such option: --seed"),
        (["run", "dmo"], "error: no shipped recipe is called dmo\n  hint: did you mean demo?"),
        (["run", "my.yaml"], "error: no recipe file my.yaml"),
        (["run", "demo", "--set", "train.max_stps=3"], "train.max_stps: unknown key; did you mean max_steps?"),
        (["run", "demo", "--set", "nonsense"], "error: --set nonsense: not of the form key.key=value"),
        (["run", "demo", "--resume"], "error: --resume: there is no earlier run of demo in runs/"),
        (["recipe", "show", "dmo"], "did you mean demo?"),
        (["demo", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_a_mistake_gives_a_line_and_exit_code_2(mmpo: Invoke, here: Path, words: list[str], message: str) -> None:
    result = mmpo(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (here / "runs").exists(), "a mistake leaves no folder behind"


def test_debugging_shows_the_trace(mmpo: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPO_DEBUG", "1")
    assert isinstance(mmpo("recipe", "show", "dmo").exception, UserError)


def test_recipe_list_names_and_describes_each(mmpo: Invoke) -> None:
    from mmpo.recipes import read, shipped

    text = mmpo("recipe", "list").stdout
    for name in shipped():
        assert f"{name}\n" in text
        assert read(name).data["description"] in text


def test_recipe_show_prints_the_file_and_check_names_what_to_edit(mmpo: Invoke, here: Path) -> None:
    shown = mmpo("recipe", "show", "own-images")
    assert "#" in shown.stdout
    (here / "my.yaml").write_text(shown.stdout)
    checked = mmpo("recipe", "check", "my.yaml", "--set", "train.max_steps=50")
    assert checked.exit_code == 2
    for key in ("model", "build.annotations", "build.images", "eval.annotations", "eval.images"):
        assert checked.stderr.count(f": {key}: ") == 1, checked.stderr


def test_what_check_prints_is_a_recipe_again(mmpo: Invoke, here: Path) -> None:
    (here / "resolved.yaml").write_text(mmpo("recipe", "check", "demo", "--full").stdout)
    again = mmpo("recipe", "check", "resolved.yaml", "--full")
    assert again.stdout == (here / "resolved.yaml").read_text()
