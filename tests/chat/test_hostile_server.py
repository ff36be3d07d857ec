"""A chat server that means no good, over real connections: it redirects, floods, packs bombs, nests, echoes the key."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socketserver
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mmpo.chat import ChatReply, ChatRequest, open_chat
from mmpo.chat.redact import Redactor
from mmpo.chat.transport import LARGEST_REPLY, proxy_for
from mmpo.errors import Quarantined, UserError
from tests.chat.server import ChatServer, completion, quick_settings

KEY = "sk-q7/Zr+2Lw=9vXbTn4YcKm1PdHs8"
Script = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    script: Script
    seen: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path)
        try:
            self.script()
        except OSError:
            self.close_connection = True

    do_GET = do_POST

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def server(script: Script) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that were asked for."""
    seen: list[str] = []
    kind = type("Scripted", (Handler,), {"script": script, "seen": seen})
    socketserver.TCPServer.allow_reuse_address = True
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1", seen
        http.shutdown()


def ask(url: str, **changes: Any) -> ChatReply | Quarantined:
    with open_chat(quick_settings(url, **{"retries": 2, "give_up_after": None, **changes})) as chat:
        (result,) = chat.replies([ChatRequest.ask("a secret question")])
        return result


def good(text: str = "fine") -> bytes:
    return json.dumps(completion("scripted-1", text)).encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with ChatServer("from elsewhere") as elsewhere:
        with server(lambda self: self.send(status, b"", Location=f"{elsewhere.url}/chat/completions")) as (url, seen):
            result = ask(url)
        assert isinstance(result, Quarantined) and result.reason == "redirected"
        assert elsewhere.url.split("/")[2] in result.detail and "not followed" in result.detail
        assert elsewhere.requests == [] and len(seen) == 1


def test_a_server_that_only_redirects_ends_the_run_with_a_remedy() -> None:
    script: Script = lambda self: self.send(302, b"", Location="/v1/again")  # noqa: E731
    with server(script) as (url, seen), pytest.raises(UserError, match="redirected") as error:
        ask(url, give_up_after=5)
    assert "base_url" in (error.value.hint or "") and seen == ["/v1/chat/completions"]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_two_retries_are_three_requests(status: int) -> None:
    with server(lambda self: self.send(status, b"{}", Retry_After="0")) as (url, seen):
        assert isinstance(ask(url), Quarantined)
    assert len(seen) == 3


def gzipped(self: Handler) -> None:
    self.send(200, gzip.compress(good()), Content_Encoding="gzip")


def deflated(self: Handler) -> None:
    self.send(200, zlib.compress(good()), Content_Encoding="deflate")


def deflated_without_header(self: Handler) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    self.send(200, packer.compress(good()) + packer.flush(), Content_Encoding="deflate")


@pytest.mark.parametrize("script", [gzipped, deflated, deflated_without_header])
def test_packed_replies_are_read(script: Script) -> None:
    with server(script) as (url, _):
        assert ask(url) == ChatReply("fine", False, "scripted-1", False)


def flood(self: Handler) -> None:
    self.send_response(200)
    self.send_header("Transfer-Encoding", "chunked")
    self.end_headers()
    for _ in range(10_000):  # 10 GB, if somebody takes it
        self.wfile.write(b"100000\r\n" + b" " * 2**20 + b"\r\n")


def bomb(self: Handler) -> None:
    packer = zlib.compressobj(9, wbits=31)
    zeros = packer.compress(b" " * 2**20 * 200) + packer.flush()
    self.send(200, zeros, Content_Encoding="gzip")


def long_packed(self: Handler) -> None:
    """Empty blocks: much to receive, nothing to unpack."""
    self.send_response(200)
    self.send_header("Content-Encoding", "deflate")
    self.end_headers()
    self.wfile.write(b"\x78\x9c")
    for _ in range(200):
        self.wfile.write(b"\x00\x00\x00\xff\xff" * 200_000)
    self.close_connection = True


def error_flood(self: Handler) -> None:
    self.send(400, b"x" * (LARGEST_REPLY + 1))


@pytest.mark.parametrize("script", [flood, bomb, long_packed, error_flood])
def test_a_reply_has_a_largest_size(script: Script) -> None:
    with server(script) as (url, seen):
        result = ask(url, timeout=30.0)
    assert isinstance(result, Quarantined) and result.reason == "too_large" and len(seen) == 1


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "gzip"])
def test_odd_or_broken_packing_is_a_bad_reply(packing: str) -> None:
    with server(lambda self: self.send(200, b"\x1b\x00 no", Content_Encoding=packing)) as (url, seen):
        result = ask(url)
    assert isinstance(result, Quarantined) and result.reason == "bad_reply" and len(seen) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        good().replace(b'"fine"', b"[" * 100_000 + b"]" * 100_000),
        good().replace(b"7", b"7" * 5000),
        good().replace(b'"scripted-1"', b'["scripted-1"]'),
        good().replace(b'"scripted-1"', b'{"a": 1}'),
        good().replace(b'"stop"', b'[["stop"]]').replace(b'"fine"', b"null"),
        b'"\\ud800',
        b"\xff\xfe\x00",
        b"",
    ],
    ids=range(10),
)
def test_malformed_replies_are_quarantined_and_the_run_goes_on(body: bytes) -> None:
    replies = iter([body, body, body])
    script: Script = lambda self: self.send(200, next(replies, good()))  # noqa: E731
    changes: Any = {"retries": 0, "concurrency": 1, "give_up_after": None}
    with server(script) as (url, _), open_chat(quick_settings(url, **changes)) as chat:
        results = list(chat.replies([ChatRequest.ask(str(number)) for number in range(4)]))
    assert [type(result) for result in results] == [Quarantined] * 3 + [ChatReply]


FORMS = {
    "plain": KEY,
    "cut": KEY[:12],
    "tail": KEY[-10:],
    "quoted": quote(KEY, safe=""),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "basic": base64.b64encode(f"user:{KEY}".encode()).decode(),
    "hex": KEY.encode().hex(),
    "masked": f"{KEY[:9]}****",
    "far": "x" * 190 + KEY,
}


def echoes(form: str) -> dict[str, Script]:
    said = json.dumps({"error": {"message": f"bad key {form}"}}).encode()
    return {
        "401": lambda self: self.send(401, said),
        "500": lambda self: self.send(500, said),
        "text": lambda self: self.send(400, form.encode()),
        "redirect": lambda self: self.send(302, said, Location=f"http://{form.replace('/', '')}.example/{form}"),
        "no JSON": lambda self: self.send(200, form.encode()),
        "model": lambda self: self.send(200, json.dumps(completion(form, "x")).encode()),
        "packing": lambda self: self.send(200, b"x", Content_Encoding=form),
        "header": lambda self: self.send(500, b"{}", **{"Retry_After": form, "X_Key": form}),
        "reply": lambda self: self.send(200, good(f"the key is {form}, is it not?")),
    }


@pytest.mark.parametrize("how", list(echoes("")))
def test_a_key_that_is_sent_back_is_not_shown(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG, "mmpo")
    for name, form in FORMS.items():
        shown = ""
        with server(echoes(form)[how]) as (url, _):
            settings = quick_settings(url, retries=0, api_key_env="JUDGE_KEY")
            with open_chat(settings, tmp_path / name) as chat:
                try:
                    for result in chat.replies([ChatRequest.ask("a")]):
                        shown += repr(result) + _chain(result)
                except UserError as error:
                    shown += _chain(error)
                shown += chat.identity
        shown += (tmp_path / name).read_text() + caplog.text
        if how == "reply" and len(form) < 16:  # what may be a word of the reply stays
            continue
        leaked = [KEY[at : at + 8] for at in range(len(KEY) - 7) if KEY[at : at + 8] in shown]
        assert not leaked and form not in shown, (name, shown)


def _chain(error: object) -> str:
    """Everything that hangs on an exception, also what a traceback would not print."""
    text = ""
    while isinstance(error, BaseException):
        text += "".join(traceback.format_exception(error, chain=False)) + repr(vars(error))
        response = getattr(error, "response", None)
        text += repr(dict(response.request.headers)) if response is not None else ""
        error = error.__cause__ or error.__context__
    return text


def test_short_placeholders_hide_nothing() -> None:
    assert Redactor("none").data("none of these") == "none of these"
    assert Redactor(KEY).data("an ordinary answer") == "an ordinary answer"


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://api.example/v1") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_for("https://api.example/v1") == "http://127.0.0.1:3128"
    assert proxy_for("https://inside.example/v1") is None and proxy_for("http://api.example/v1") is None
