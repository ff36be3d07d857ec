"""Progress from Python: a moving line in a notebook, bars on a terminal, nothing into a pipe."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from mmpo.api import showing
from mmpo.progress import reporting, track
from mmpo.progress_display import LineReporter
from mmpo.visible import SafeConsole

WORK = "from mmpo.api.showing import showing\nfrom mmpo.progress import track\nwith showing():\n  for _ in track(range(3), 'sorting'): pass\n"  # noqa: E501


class Cell:
    """What a notebook's cell shows, as IPython's display protocol puts it there."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def display(self, html: str, *, display_id: bool) -> Any:
        assert display_id
        self.shown.append([html])
        mine = self.shown[-1]

        class Handle:
            def update(self, html: str) -> None:
                mine.append(html)

        return Handle()


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A kernel's shell and display, in the places where IPython has them."""
    cell = Cell()
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    shell = type("ZMQInteractiveShell", (), {"kernel": object()})()
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    display.display, display.HTML = cell.display, str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return cell


def test_a_notebooks_cell_shows_a_line_that_moves(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "SHOWN_EVERY", 0.0)
    with showing.showing():
        for _ in track(range(3), "scoring <b>"):
            pass
    (line,) = cell.shown
    assert "scoring &lt;b&gt;: 0/3" in line[0] and '<progress value="3" max="3">' in line[-1]
    assert any("1/3" in text for text in line)
    with pytest.raises(ValueError), showing.showing():
        for _ in track(range(3), "scoring"):
            raise ValueError
    assert "stopped" in cell.shown[-1][-1]


def test_an_ipython_on_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not showing.in_notebook()


def test_whoever_listens_already_goes_on(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(LineReporter(SafeConsole())), showing.showing():
        for _ in track(range(2), "scoring"):
            pass
    assert cell.shown == [] and "scoring: 2/2" in capsys.readouterr().out


def test_nothing_is_written_into_a_pipe_and_bars_on_a_terminal() -> None:
    piped = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=120)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "", "")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(timeout=120) == 0 and b"sorting" in seen and b"3/3" in seen


def test_warnings_are_shown_unless_the_program_logs_itself() -> None:
    def handlers() -> list[logging.Handler]:
        return logging.getLogger("mmpo").handlers

    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        with showing.showing():
            assert len(handlers()) == 1 and handlers()[0].level == logging.WARNING
        assert not handlers()
        root.handlers = [logging.NullHandler()]
        with showing.showing():
            assert not handlers()
    finally:
        root.handlers = before
