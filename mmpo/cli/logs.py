"""Where log records go during a run: all of them into the run folder, mmpo's warnings to the terminal too."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from mmpo.cli import console

RUN = "mmpo.run"
"""The logger of the run itself: what started, what ended, how it failed."""


class _ToTerminal(logging.Handler):
    """mmpo's own warnings, one line each, and what is logged with `extra={"say": True}`; libraries are left to the log
    file."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            if getattr(record, "say", False):
                console.line(record.getMessage())
            return
        text = Text.assemble((f"{record.levelname.lower()}: ", "yellow"), console.visible(record.getMessage()))
        console.err.print(text, soft_wrap=True)


class _ToFile(logging.FileHandler):
    """The run's log. Where it can't be written (a full disk), what stopped the run is told, not this."""

    def handleError(self, record: logging.LogRecord) -> None:
        return None


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Inside the block, records of mmpo (from INFO) and of libraries (from WARNING) are appended to `file`."""
    # Libraries print through tqdm and their own handlers; the terminal is kept for one voice.
    for name, value in (
        ("TQDM_DISABLE", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    to_file = _ToFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = _ToTerminal(logging.INFO)
    to_terminal.addFilter(lambda record: record.name != RUN)  # the command line says these itself
    root, ours = logging.getLogger(), logging.getLogger("mmpo")
    level = ours.level
    ours.setLevel(logging.INFO)
    root.addHandler(to_file)
    ours.addHandler(to_terminal)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.removeHandler(to_terminal)
        root.removeHandler(to_file)
        ours.setLevel(level)
        to_file.close()


def quiet_libraries() -> None:
    """transformers keeps a handler of its own on stderr: send its records to the run's log. Imports transformers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
