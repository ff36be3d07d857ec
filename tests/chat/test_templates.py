"""Prompt files: packaged and a user's own, sandboxed, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.chat.templates import packaged, render, template_version
from mmpo.errors import UserError


def write(folder: Path, text: str, name: str = "mine.j2") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_users_file(tmp_path: Path) -> None:
    path = write(tmp_path, "{# a comment #}\n{% for fact in facts %}\n- {{ fact }}\n{% endfor %}\nÜber <b> & {{ n }}\n")
    assert render(path, facts=["one", "two"], n=3) == "- one\n- two\nÜber <b> & 3"
    path.write_text("changed {{ n }}", encoding="utf-8")
    assert render(path, n=4) == "changed 4"


def test_a_template_may_include_its_neighbours_only(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write(inside, "shared part", "part.j2")
    write(tmp_path, "secret", "outside.j2")
    assert render(write(inside, "{% include 'part.j2' %}")) == "shared part"
    with pytest.raises(UserError):
        render(write(inside, "{% include '../outside.j2' %}", "other.j2"))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("one\ntwo {{ missing }}\n", 2, "missing"),
        ("one\n\n{% if x %}\nnever ended\n", 3, ""),
        ("{{ x }}\n{{ ''.__class__.__mro__ }}\n", 2, "unsafe"),
        ("{{ x }}\n\n\n{{ x + 1 }}\n", 4, ""),
        ("{{ items.append(1) }}", 1, ""),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        render(path, x="text", items=[])
    message = str(error.value)
    assert says in message
    if "never ended" not in text:
        assert f"{path}:{line}" in message
    else:
        assert str(path) in message


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="no prompt is called 'shr_juge'"):
        render("shr_juge")
    with pytest.raises(UserError, match="no such template file"):
        render("nowhere/mine.j2")
    with pytest.raises(UserError):
        render("../prompts/x")


def test_every_packaged_template_compiles_and_has_a_version(tmp_path: Path) -> None:
    assert {"shr_judge", "mmhal_judge", "hallusion_correct", "hallusion_same"} <= set(packaged())
    for name in packaged():
        assert template_version(name).startswith(f"{name}@")
        try:
            assert render(name)
        except UserError as error:  # most need values
            assert "is undefined" in error.message
    path = write(tmp_path, "a")
    before = template_version(path)
    path.write_text("b")
    assert template_version(path) != before
