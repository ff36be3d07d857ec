"""`transformers serve` in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmpo.chat import ChatSettings


@contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """Serve the text model in a folder; yields the base_url. Skips the test where transformers[serving] is missing."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="`transformers serve` needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["from transformers.cli.transformers import main; main()", "serve", str(model), "--port", str(port)]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", *command, "--device", "cpu", "--host", "127.0.0.1"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def settings_for(model: Path, url: str) -> ChatSettings:
    return ChatSettings(
        backend="server", model=str(model), accept_models=[f"{model}@main"], base_url=url, concurrency=3, timeout=60
    )


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
