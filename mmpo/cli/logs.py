"""Handlers of log records during a run: all go into the run folder, mmpo's warnings to the terminal too."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from mmpo.cli import console
from mmpo.run_log import RUN, logging_into
from mmpo.visible import visible


class _ToTerminal(logging.Handler):
    """mmpo's own warnings, one line each, and what is logged with `extra={"say": True}`; libraries are left to the log
    file."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            if getattr(record, "say", False):
                console.line(record.getMessage())
            return
        text = Text.assemble((f"{record.levelname.lower()}: ", "yellow"), visible(record.getMessage()))
        console.err.print(text, soft_wrap=True)


def silence_libraries() -> None:
    """Libraries print through tqdm and their own handlers: the terminal is kept for mmpo. Before they are imported."""
    for name, value in (
        ("TQDM_DISABLE", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Inside the block, records of mmpo (from INFO) and of libraries (from WARNING) are appended to `file`."""
    silence_libraries()
    to_terminal = _ToTerminal(logging.INFO)
    to_terminal.addFilter(lambda record: record.name != RUN)  # the command line prints these itself
    ours = logging.getLogger("mmpo")
    with logging_into(file):
        ours.addHandler(to_terminal)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            ours.removeHandler(to_terminal)


def quiet_libraries() -> None:
    """transformers keeps a handler of its own on stderr: send its records to the run's log. Its progress bars are off,
    also where it was imported before `silence_libraries`, and its notices of future changes are not shown. Imports
    transformers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
