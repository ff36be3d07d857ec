"""A real HTTP server on loopback that speaks /v1/chat/completions, with faults where the script wants them.

    with ChatServer(answer="Yes.", fault=lambda prompt, attempt: "500" if attempt == 1 else None) as server:
        settings = server.settings()

`answer` is a text or a function of the last user message; `fault(prompt, attempt)` names a fault for the attempt-th
request (from 1) with that last user message, or None. `answered` counts the good replies by prompt, `faults` what else
was sent. `ServerProcess` is the same in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from mmpo.chat import ChatSettings

FAULTS = ("429", "500", "hang", "truncated_json", "cut_body", "nonsense", "disconnect")
"""Faults that pass: a patient client gets its reply at a later attempt. So do `reset` (a connection that is torn down)
and `drip` (a body that never ends). There are also `400`, `401`, `404`,
`wrong_model`, `empty`, `filtered` and `length`, which don't.
"""

Answer = str | Callable[[str], str]
Fault = Callable[[str, int], str | None]


class ChatServer:
    """The server runs for the length of a `with` block."""

    def __init__(
        self,
        answer: Answer = "ok",
        fault: Fault | None = None,
        *,
        model: str = "scripted-1",
        retry_after: str = "0",
        delay: float = 0.0,
        complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        models: Callable[[], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.complete = complete
        self.models = models or (lambda: [{"id": model, "object": "model", "owned_by": "tests"}])
        self.answer = answer
        self.fault: Fault = fault or (lambda prompt, attempt: None)
        self.model = model
        self.retry_after = retry_after
        self.delay = delay
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"script": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        """The base_url for clients."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def settings(self, **changes: Any) -> ChatSettings:
        """Settings for this server, without long waits."""
        return quick_settings(self.url, **{"model": self.model, **changes})

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()


def quick_settings(url: str, **changes: Any) -> ChatSettings:
    """Settings for a scripted server at `url`, without long waits."""
    fields = {"model": "scripted-1", "base_url": url, "first_wait": 0.01, "longest_wait": 1.0, "timeout": 5.0}
    return ChatSettings(backend="server", **{**fields, **changes})


@dataclass(frozen=True)
class Record:
    """What a server was asked and what it sent."""

    attempts: Counter[str]
    answered: Counter[str]
    faults: Counter[str]


class ServerProcess:
    """A `ChatServer` in a process of its own, as a user's is. `answer` and `fault` go there by name: functions of a
    module.
    """

    def __init__(self, answer: Answer, fault: Fault | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, answer, fault), daemon=True)

    def __enter__(self) -> ServerProcess:
        self._process.start()
        self.url: str = self._pipe.recv()
        return self

    def record(self) -> Record:
        self._pipe.send("record")
        found: Record = self._pipe.recv()
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.send(None)
        self._process.join(10)


def _serve(pipe: Connection, answer: Answer, fault: Fault | None) -> None:
    with ChatServer(answer, fault) as server:
        pipe.send(server.url)
        while pipe.recv() is not None:
            with server.lock:
                pipe.send(Record(server.attempts, server.answered, server.faults))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5 a burst of connections waits a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was tired of waiting, or killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    script: ChatServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet a reply: two would wait 40 ms for each other
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, json.dumps({"object": "list", "data": self.script.models()}).encode())
        else:
            self._send(404, b"{}")

    def do_POST(self) -> None:
        script = self.script
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if len(sent) < int(self.headers["Content-Length"]):  # the client was killed
            self.close_connection = True
            return
        body = json.loads(sent)
        prompt = last_user_text(body)
        with script.lock:
            script.requests.append(body)
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            script.attempts[prompt] += 1
            attempt = script.attempts[prompt]
            script.at_once += 1
            script.most_at_once = max(script.most_at_once, script.at_once)
        try:
            if script.delay:
                script.stopping.wait(script.delay)
            self._reply(prompt, script.fault(prompt, attempt), body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with script.lock:
                script.at_once -= 1

    def _reply(self, prompt: str, fault: str | None, body: dict[str, Any]) -> None:
        script = self.script
        if self.path != "/v1/chat/completions":
            fault = "404"
        if fault is not None:
            with script.lock:
                script.faults[fault] += 1
        if fault == "disconnect":
            self.close_connection = True
            return
        if fault == "reset":  # no orderly end, but RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "drip":  # a byte now and then, for longer than any patience
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not script.stopping.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
            return
        if fault == "hang":
            self.close_connection = True
            script.stopping.wait(60)
            return
        if fault is not None and fault.isdigit():
            headers = {"Retry-After": script.retry_after} if fault == "429" else {}
            self._send(int(fault), json.dumps({"error": {"message": f"scripted {fault}"}}).encode(), headers)
            return
        if fault == "nonsense":
            self._send(200, b'["this is not a completion"]')
            return
        if script.complete is not None:
            try:
                data = script.complete(body)
            except LookupError as error:
                self._send(404, json.dumps({"error": {"message": f"no model {error}"}}).encode())
                return
        else:
            data = completion(script.model, script.answer if isinstance(script.answer, str) else script.answer(prompt))
        if fault == "wrong_model":
            data["model"] = "some-other-model"
        elif fault == "empty":
            data["choices"][0]["message"]["content"] = ""
        elif fault == "filtered":
            data["choices"][0]["finish_reason"] = "content_filter"
        elif fault == "length":
            data["choices"][0]["finish_reason"] = "length"
        encoded = json.dumps(data).encode()
        if fault == "truncated_json":
            self._send(200, encoded[: len(encoded) // 2])
        elif fault == "cut_body":
            self._send(200, encoded[: len(encoded) // 2], {"Content-Length": str(len(encoded))})
            self.close_connection = True
        else:
            if fault is None:
                with script.lock:
                    script.answered[prompt] += 1
            self._send(200, encoded)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def completion(model: str, text: str) -> dict[str, Any]:
    """A chat completion as servers send it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def last_user_text(body: dict[str, Any]) -> str:
    """The text of the last user message of a request."""
    content = [message["content"] for message in body["messages"] if message["role"] == "user"][-1]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
