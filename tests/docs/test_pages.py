"""What the pages name is there: links with their headings, modules and classes, files, commands with their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from mmpo import recipes
from mmpo.cli.app import DEFAULT, load_commands
from tests.test_architecture import LAYERS

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
INDEX = ROOT / "docs" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "mmpo").rglob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def links(page: Path) -> list[str]:
    """Where the links of a page lead, those to other sites left out."""
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    lost = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not (target.is_relative_to(ROOT) and target.exists()) or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_index_lists_every_page_and_the_front_page_the_index() -> None:
    listed = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    assert set(DOCS) - {INDEX} <= listed
    assert "docs/README.md" in links(ROOT / "README.md")


@cache
def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or leads from one to what is in it."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def dotted_names(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w./-])mmpo(?:\.[A-Za-z_]\w*)+(?![\w/])", text))


@each_page
def test_modules_and_classes_exist(page: Path) -> None:
    own = set(re.findall(r'@(?:register|objective)\(\s*"(\w+)"', page.read_text(encoding="utf-8")))  # the page makes it
    names = {name for name in dotted_names(page.read_text(encoding="utf-8")) if name.split(".")[-1] not in own}
    assert sorted(name for name in names if not is_there(name)) == []


def test_classes_in_the_concepts_stand_there_with_their_modules() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    known = {part for name in dotted_names(text) for part in name.split(".")}
    bare = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", text))
    assert len(dotted_names(text)) > 20 and bare <= known


@cache
def file_names() -> frozenset[str]:
    folders = ("mmpo", "tests", "benchmarks", "scripts")
    return frozenset(file.name for folder in folders for file in (ROOT / folder).rglob("*.*"))


def paths(text: str) -> Iterator[str]:
    yield from re.findall(r"(?<![\w./-])(?:mmpo|docs|tests|benchmarks|scripts)/[\w./*-]*\w", text)


@each_page
def test_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert sorted(path for path in paths(text) if not any(ROOT.glob(path))) == []
    bare = {Path(name).name for name in re.findall(r"`([\w/]+\.(?:py|j2))`", text)}
    assert bare <= file_names()


@each_page
def test_tests_exist(page: Path) -> None:
    lost = []
    for named, function in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        file = ROOT / "tests" / named.removeprefix("tests/")
        if not file.is_file() or f"def {function}(" not in file.read_text(encoding="utf-8"):
            lost.append(f"{named}::{function}")
    assert lost == []


def test_the_order_of_imports_is_the_one_that_is_checked() -> None:
    (order,) = re.findall(r"`(cli → [^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    rooms = [set(re.findall(r"\w+", group)) for group in order.split("→")]
    heights = [{number for number, layer in enumerate(LAYERS) if room & set(layer)} for room in rooms]
    assert all(len(height) == 1 for height in heights) and all(room <= {*sum(LAYERS, ())} for room in rooms)
    assert [min(height) for height in heights] == sorted({min(height) for height in heights}, reverse=True)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `mmpo …` in code, without comments and what is piped or redirected."""
    spans = re.findall(r"`(?:accelerate launch -m )?(mmpo [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    fenced = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    indented = "\n".join(re.findall(r"^ {4}(.*)$", text, re.MULTILINE))
    lines = re.findall(r"^(?:\$ |accelerate launch -m )?(mmpo [a-z].*)$", f"{fenced}\n{indented}", re.MULTILINE)
    for line in [*spans, *lines]:
        words = re.split(r"\s[#>|&]|\\$|;", line)[0].replace("…", "").replace("...", "")
        try:
            yield shlex.split(words)
        except ValueError:
            yield words.split()


@cache
def program() -> Any:
    return typer.main.get_command(load_commands())


def mistakes(words: list[str]) -> list[str]:
    """The words of a command that mmpo does not know: a subcommand, an option, a shipped recipe."""
    command, rest = program(), words[1:]
    while rest and hasattr(command, "commands"):
        if rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        elif DEFAULT in command.commands:
            command = command.commands[DEFAULT]
        else:
            return [] if rest[0].startswith("-") else [rest[0]]
    if hasattr(command, "commands"):  # a group by its name
        return []
    options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in rest if re.match(r"--\w", word) and word.partition("=")[0] not in options]
    if words[1:3] == ["recipe", "show"] and len(words) > 3 and words[3].islower() and words[3] not in recipes.shipped():
        unknown.append(words[3])
    return unknown


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    found = list(commands(page.read_text(encoding="utf-8")))
    assert [(words, bad) for words in found if (bad := mistakes(words))] == []


def test_the_reader_of_pages_sees_what_is_wrong() -> None:
    assert not is_there("mmpo.eval.pope_benchmark") and not is_there("mmpo.types.PairLogp") and is_there("mmpo.load")
    (words,) = commands("    mmpo eval score pope --question FILE   # a comment --here\n")
    assert mistakes(words) == ["--question"]
    assert mistakes(["mmpo", "recipe", "show", "own-image"]) == ["own-image"]
    assert mistakes(["mmpo", "score"]) == ["score"]
    assert list(paths("see `mmpo/eval/pope_benchmark.py`.")) == ["mmpo/eval/pope_benchmark.py"]
