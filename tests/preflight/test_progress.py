"""Counts of progress go up only, also for work that comes again and again inside longer work."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from mmpo.cli.console import LineReporter
from mmpo.data_builders.units import finish_units
from mmpo.progress import reporting, task, track


def test_work_that_comes_again_goes_on_counting() -> None:
    said = io.StringIO()
    reporter = LineReporter(Console(file=said, width=100))
    with reporting(reporter), task("building", 6) as building:
        for _ in range(3):
            for _ in track(range(4), "judging"):
                pass
            building.advance(2)
    assert "judging: 12/12" in said.getvalue() and "building: 6/6" in said.getvalue()
    assert said.getvalue().count("judging") == 1
    with reporting(reporter), task("training", 1):
        pass
    with reporting(reporter):
        for _ in track(range(2), "one"):
            pass
        for _ in track(range(2), "one"):  # beside each other, not inside: two tasks
            pass
    assert said.getvalue().count("one: 2/2") == 2


def test_the_pairs_of_a_build_are_counted_over_its_units(tmp_path: Path) -> None:
    notes: list[str] = []

    class Recorder:
        def begin(self, label: str, total: int | None) -> Recorder:
            return self

        def advance(self, steps: int = 1, note: str | None = None) -> None:
            notes.extend([note] if note else [])

        def extend(self, total: int | None) -> None:
            return None

        def close(self, *, finished: bool) -> None:
            return None

    def begin(stack: object):  # type: ignore[no-untyped-def]
        def work(number: int, part, advance):  # type: ignore[no-untyped-def]
            advance(len(part))
            if number == 3:
                raise KeyboardInterrupt
            return {"outcomes": [{"pairs": [1] * (5 - number)} for _ in part]}

        return work

    for _ in range(2):  # stopped once, and gone on
        try:
            with reporting(Recorder()):
                finish_units(tmp_path / "units", list(range(8)), 2, "building", begin)
        except KeyboardInterrupt:
            (tmp_path / "units" / "00002.json").unlink(missing_ok=True)
    counts = [int(re.sub(r"\D", "", note)) for note in notes]
    assert counts == [10, 18, 24, 24]
