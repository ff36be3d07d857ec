"""The log of a run: `run.log` in its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN = "mmpo.run"
"""The logger of the run itself: what started, what ended, how it failed."""


class _ToFile(logging.FileHandler):
    """A log file that ignores its own write errors (a full disk), so that the cause of the failure is reported."""

    def handleError(self, record: logging.LogRecord) -> None:
        return None


@contextmanager
def logging_into(file: Path) -> Iterator[None]:
    """Inside the block, records of mmpo (from INFO) and of libraries (from WARNING) are appended to `file`."""
    to_file = _ToFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, ours = logging.getLogger(), logging.getLogger("mmpo")
    level = ours.level
    ours.setLevel(logging.INFO)
    root.addHandler(to_file)
    try:
        yield
    finally:
        root.removeHandler(to_file)
        ours.setLevel(level)
        to_file.close()
