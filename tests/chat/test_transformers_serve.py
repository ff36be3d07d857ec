"""`transformers serve`, a real server with a real (tiny) model, gives the replies of the local backend."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmpo.chat import ChatReply, ChatRequest, ChatSettings, open_chat
from tests.chat.text_model import save_text_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="`transformers serve` needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
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


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')[-2000:]}")


def test_server_and_local_model_agree(model: Path, address: str) -> None:
    requests = [ChatRequest.ask(f"Is there a cat, number {number}?", max_tokens=8) for number in range(6)]
    with open_chat(ChatSettings(backend="local", model=str(model), dtype="float32")) as chat:
        expected = [reply.text if isinstance(reply, ChatReply) else reply for reply in chat.replies(requests)]
    settings = ChatSettings(
        backend="server",
        model=str(model),
        accept_models=[f"{model}@main"],
        base_url=address,
        concurrency=3,
        timeout=60,
    )
    with open_chat(settings) as chat:
        served = list(chat.replies(requests))
    assert [reply.text.strip() if isinstance(reply, ChatReply) else reply for reply in served] == expected
    assert len(set(expected)) > 1
