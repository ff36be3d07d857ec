"""Nothing in data, names or errors can steer the terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from mmpo.cli import console
from mmpo.cli.logs import logging_to
from mmpo.progress_display import LineReporter
from mmpo.visible import SafeConsole, visible

HOSTILE = "a\x1b]0;title\x07b\rc\x08\x7f\x9b2J\u202egnp.\u2066\udcff"


def test_other_scripts_stay_as_they_are() -> None:
    text = "two\nlines\tand 犬, Grüße, שלום, 😀, e\u0301, 👩\u200d🔬"
    assert visible(text) == text
    assert visible(HOSTILE) == r"a\x1b]0;title\x07b\x0dc\x08\x7f\x9b2J\u202egnp.\u2066\udcff"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, SafeConsole(file=stream, width=200, highlight=False))
    return stream


def test_every_way_of_printing(screen: io.StringIO, tmp_path: Path) -> None:
    console.fail(HOSTILE, HOSTILE)
    console.heading(HOSTILE)
    console.line(HOSTILE)
    console.next_steps([(HOSTILE, HOSTILE)])
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    console.out.print(table)
    console.out.print(HOSTILE)
    progress = LineReporter(console.out).begin(HOSTILE, 2)
    progress.advance(note=HOSTILE)
    progress.close(finished=True)
    with logging_to(tmp_path / "log"):
        logging.getLogger("mmpo.data").warning("%s is odd", HOSTILE.replace("\udcff", ""))
    shown = screen.getvalue()
    assert not set(shown) & set("\x1b\x07\r\x08\x7f\x9b\u202e\u2066\udcff")
    assert shown.count(r"\x1b]0;title") >= 13 and shown.count(r"\x0d") >= 8


def test_errors_and_results_on_a_real_terminal(tmp_path: Path) -> None:
    """A pseudo-terminal: the file's name and an id in it hold escape sequences; a pipe gets the data as it is."""
    rows = tmp_path / "r.jsonl"
    rows.write_text(json.dumps({"id": HOSTILE[:-1], "text": "Heart \x1b[2J\u202e is stable."}) + "\n")
    odd = tmp_path / "x\x1b]0;owned\x07.jsonl"
    command = "import sys; from mmpo.cli import main; sys.argv[0] = 'mmpo'; main()"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    written = b""
    for words in (
        ["radiology", "detect", str(rows)],
        ["radiology", "detect", str(rows), "--json"],
        ["radiology", "detect", str(odd)],
    ):
        leader, follower = pty.openpty()
        subprocess.run(
            [sys.executable, "-c", command, *words], stdout=follower, stderr=follower, env=environment, timeout=60
        )
        os.close(follower)
        try:
            while block := os.read(leader, 65536):
                written += block
        except OSError:  # the other end is closed
            pass
        os.close(leader)
    assert b"owned" in written and b"stable" in written
    assert not any(sequence in written for sequence in (b"\x1b]", b"\x07", b"\x1b[2J", "\u202e".encode()))
    piped = subprocess.run(
        [sys.executable, "-c", command, "radiology", "detect", str(rows), "--json"], capture_output=True
    )
    assert json.loads(piped.stdout)["id"] == HOSTILE[:-1]
