"""The server backend against a real HTTP server with faults: each request ends as reply or quarantined, none twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mmpo.chat import ChatModel, ChatReply, ChatRequest, ChatSettings, open_chat
from mmpo.chat.server import READ_AHEAD, retry_after
from mmpo.errors import Quarantined, UserError
from mmpo.progress import reporting
from tests.chat.server import FAULTS, ChatServer

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


def ask_all(chat: ChatModel, prompts: list[str]) -> list[ChatReply | Quarantined]:
    return list(chat.replies([ChatRequest.ask(prompt, max_tokens=8) for prompt in prompts]))


def echo(prompt: str) -> str:
    return f"you said {prompt}"


@pytest.mark.parametrize("fault", [*FAULTS, "reset", "drip"])
def test_a_passing_fault_is_outlived(fault: str) -> None:
    with ChatServer(echo, lambda prompt, attempt: fault if attempt <= 2 else None) as server:
        timeout = 0.3 if fault in ("hang", "drip") else 5.0
        with open_chat(server.settings(timeout=timeout, retries=2)) as chat:
            assert ask_all(chat, ["a"]) == [ChatReply("you said a", False, "scripted-1", False)]
        assert server.attempts["a"] == 3
        assert server.requests[1:] == server.requests[:1] * 2  # also at the same temperature: some kits raise it


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "rate_limited"),
        ("500", "server_error"),
        ("503", "server_error"),
        ("408", "server_error"),
        ("hang", "timeout"),
        ("truncated_json", "bad_reply"),
        ("nonsense", "bad_reply"),
        ("disconnect", "unreachable"),
    ],
)
def test_a_lasting_fault_is_quarantined_after_all_tries(fault: str, reason: str) -> None:
    with ChatServer(echo, lambda prompt, attempt: fault if prompt == "bad" else None) as server:
        timeout = 0.2 if fault == "hang" else 5.0
        with open_chat(server.settings(timeout=timeout, retries=1)) as chat:
            first, bad, last = ask_all(chat, ["first", "bad", "last"])
        assert isinstance(first, ChatReply) and isinstance(last, ChatReply)
        assert isinstance(bad, Quarantined) and (bad.stage, bad.reason) == ("chat", reason)
        assert "2 tries" in bad.detail and server.attempts == Counter(first=1, bad=2, last=1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("400", "bad_request"),
        ("422", "bad_request"),
        ("401", "unauthorized"),
        ("404", "not_found"),
        ("wrong_model", "wrong_model"),
        ("empty", "empty_reply"),
        ("filtered", "refused"),
    ],
)
def test_what_no_retry_can_help_is_asked_once(fault: str, reason: str) -> None:
    with ChatServer(echo, lambda prompt, attempt: fault if prompt == "bad" else None) as server:
        with open_chat(server.settings()) as chat:
            bad, good = ask_all(chat, ["bad", "good"])
        assert isinstance(bad, Quarantined) and bad.reason == reason
        assert isinstance(good, ChatReply) and server.attempts["bad"] == 1


def test_faults_everywhere_in_order_and_none_twice(tmp_path: Path) -> None:
    """Two of three first attempts fail, some prompts fail for ever; a second run asks only for those."""
    kinds = [kind for kind in FAULTS if kind != "hang"]

    def fault(prompt: str, attempt: int) -> str | None:
        number = int(prompt)
        if number % 10 == 7:
            return "400"
        return kinds[number % len(kinds)] if number % 3 and attempt <= 1 + number % 2 else None

    prompts = [str(number) for number in range(60)]
    with ChatServer(echo, fault) as server:
        settings = server.settings(concurrency=6, retries=3)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat:
            results = ask_all(chat, prompts)
        good = [number for number, result in enumerate(results) if isinstance(result, ChatReply)]
        bad = [number for number, result in enumerate(results) if isinstance(result, Quarantined)]
        assert [results[number].text for number in good] == [f"you said {number}" for number in good]  # type: ignore[union-attr]
        assert bad == [number for number in range(60) if number % 10 == 7]
        assert set(server.answered.values()) == {1} and len(server.answered) == len(good)
        asked = len(server.requests)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat:
            again = ask_all(chat, prompts)
        assert len(server.requests) == asked + len(bad)
        assert all(result.cached for result in again if isinstance(result, ChatReply))
        assert [getattr(r, "text", None) for r in again] == [getattr(r, "text", None) for r in results]


def test_a_killed_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    """SIGKILL in the middle: afterwards only requests that were under way then can have been asked twice."""
    path = tmp_path / "replies.jsonl"
    prompts = [str(number) for number in range(40)]
    with ChatServer(echo, delay=0.05) as server:
        settings = server.settings(concurrency=4)
        code = (
            "import os, signal, sys\n"
            "from mmpo.chat import ChatRequest, ChatSettings, open_chat\n"
            "settings = ChatSettings.model_validate_json(sys.argv[1])\n"
            "with open_chat(settings, sys.argv[2]) as chat:\n"
            "    requests = [ChatRequest.ask(str(number), max_tokens=8) for number in range(40)]\n"
            "    for number, reply in enumerate(chat.replies(requests)):\n"
            "        if number == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, settings.model_dump_json(), str(path)])
        assert killed.returncode == -9
        kept = len(path.read_text().splitlines())
        assert 12 < kept < 40
        with open_chat(settings, path) as chat:
            results = ask_all(chat, prompts)
        assert [result.text for result in results if isinstance(result, ChatReply)] == [echo(text) for text in prompts]
        assert sum(result.cached for result in results if isinstance(result, ChatReply)) >= kept
        assert max(server.attempts.values()) <= 2 and sum(server.attempts.values()) <= 40 + 4


def test_equal_requests_under_way_are_asked_once() -> None:
    with ChatServer(echo, delay=0.1) as server, open_chat(server.settings()) as chat:
        results = ask_all(chat, ["same"] * 5)
        assert len(results) == 5 and len(server.requests) == 1


def test_concurrency_is_used_and_never_exceeded() -> None:
    with ChatServer(echo, delay=0.05) as server, open_chat(server.settings(concurrency=4)) as chat:
        ask_all(chat, [str(number) for number in range(16)])
        assert server.most_at_once == 4


def test_requests_are_drawn_as_needed() -> None:
    drawn = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal drawn
        while True:
            drawn += 1
            yield ChatRequest.ask(str(drawn))

    with ChatServer(echo) as server, open_chat(server.settings(concurrency=2)) as chat:
        results = chat.replies(endless())
        assert [next(results).text for _ in range(3)] == ["you said 1", "you said 2", "you said 3"]  # type: ignore[union-attr]
        results.close()  # type: ignore[attr-defined]
        assert drawn <= 3 + 2 * READ_AHEAD


def test_retry_after_is_waited_for() -> None:
    script = ChatServer(echo, lambda prompt, attempt: "429" if attempt == 1 else None, retry_after="0.4")
    with script as server, open_chat(server.settings(longest_wait=1)) as chat:
        started = time.monotonic()
        assert isinstance(ask_all(chat, ["a"])[0], ChatReply)
        assert time.monotonic() - started >= 0.4


def test_a_retry_after_beyond_patience_ends_the_tries() -> None:
    with ChatServer(echo, lambda prompt, attempt: "429", retry_after="3600") as server:
        with open_chat(server.settings(give_up_after=None)) as chat:
            (result,) = ask_all(chat, ["a"])
        assert isinstance(result, Quarantined) and "3600 s" in result.detail and len(server.requests) == 1


def test_retry_after_forms() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "Retry-After": "7"}) == 0.25
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert 50 < (retry_after({"Retry-After": _in_a_minute()}) or 0) <= 60
    for nonsense in ({}, {"Retry-After": "soon"}, {"Retry-After": "-3"}, {"Retry-After": "nan"}):
        assert retry_after(nonsense) is None


def _in_a_minute() -> str:
    from email.utils import formatdate

    return formatdate(time.time() + 60, usegmt=True)


def test_a_server_that_is_no_use_is_given_up_with_the_remedy() -> None:
    with ChatServer(echo, lambda prompt, attempt: "401") as server:
        with open_chat(server.settings(give_up_after=5, concurrency=1)) as chat, pytest.raises(UserError) as error:
            ask_all(chat, [str(number) for number in range(50)])
        assert "5 requests in a row" in str(error.value) and "api_key_env" in str(error.value)
        assert len(server.requests) == 5


def test_a_server_that_never_worked_is_given_up_however_few_were_asked(tmp_path: Path) -> None:
    with ChatServer(echo, lambda prompt, attempt: "500" if attempt < 3 else None) as server:
        settings = server.settings(retries=0)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat, pytest.raises(UserError) as error:
            ask_all(chat, ["a", "b"])
        assert "2 requests in a row failed, the last one with server_error" in str(error.value)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat, pytest.raises(UserError, match="1 request in"):
            ask_all(chat, ["a"])
        with open_chat(settings, tmp_path / "replies.jsonl") as chat:
            assert isinstance(ask_all(chat, ["a"])[0], ChatReply)
            (late,) = ask_all(chat, ["c"])
            assert isinstance(late, Quarantined), "it worked before"


def test_bad_requests_never_end_a_run() -> None:
    script = ChatServer(echo, lambda prompt, attempt: "400")
    with script as server, open_chat(server.settings(give_up_after=3)) as chat:
        assert all(isinstance(result, Quarantined) for result in ask_all(chat, [str(n) for n in range(12)]))


def test_no_server_there() -> None:
    with ChatServer() as server:
        settings = server.settings(retries=1, give_up_after=None)
    with open_chat(settings) as chat:
        (result,) = ask_all(chat, ["a"])
    assert isinstance(result, Quarantined) and result.reason == "unreachable"


def test_what_is_sent() -> None:
    request = ChatRequest((("system", "be brief"), ("user", "what is it?")), images=(PNG,), max_tokens=9, seed=3)
    with ChatServer(echo) as server, open_chat(server.settings(extra={"top_p": 0.5, "max_tokens": None})) as chat:
        list(chat.replies([request]))
        (sent,) = server.requests
    assert sent["model"] == "scripted-1" and sent["temperature"] == 0 and sent["seed"] == 3
    assert sent["top_p"] == 0.5 and "max_tokens" not in sent
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    picture, text = sent["messages"][1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "what is it?"}


def test_bytes_that_are_no_picture() -> None:
    with ChatServer(echo) as server, open_chat(server.settings()) as chat:
        (result,) = chat.replies([ChatRequest.ask("?", images=(b"text",))])
        assert isinstance(result, Quarantined) and result.reason == "not_an_image" and not server.requests


def test_text_that_cannot_be_sent(tmp_path: Path) -> None:
    with ChatServer(echo) as server, open_chat(server.settings(), tmp_path / "r.jsonl") as chat:
        first, bad, last = ask_all(chat, ["Grüße 犬", "half a pair: \ud83d", "last\0"])
        assert isinstance(first, ChatReply) and first.text == "you said Grüße 犬" and isinstance(last, ChatReply)
        assert isinstance(bad, Quarantined) and bad.reason == "bad_request" and len(server.requests) == 2


def test_odd_but_sound_replies_survive_the_cache(tmp_path: Path) -> None:
    text = 'half a pair \ud83d, a line break\u2028, quotes " and a null \0'
    with ChatServer(text) as server:
        for cached in (False, True):
            with open_chat(server.settings(), tmp_path / "r.jsonl") as chat:
                assert ask_all(chat, ["a"]) == [ChatReply(text, False, "scripted-1", cached)]


def test_stopping_early_hangs_up(tmp_path: Path) -> None:
    """Leaving the block while requests hang ends at once, and what had come is kept."""
    with ChatServer(echo, lambda prompt, attempt: "hang" if prompt != "0" else None) as server:
        started = time.monotonic()
        with open_chat(server.settings(timeout=30), tmp_path / "r.jsonl") as chat:
            results = chat.replies([ChatRequest.ask(str(number), max_tokens=8) for number in range(9)])
            assert isinstance(next(results), ChatReply)
        assert time.monotonic() - started < 10
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_importing_brings_no_torch_and_no_client() -> None:
    heavy = ("torch", "transformers", "openai")
    code = f"import sys, mmpo.chat, mmpo.chat.templates; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_truncated_replies_say_so() -> None:
    with ChatServer(echo, lambda prompt, attempt: "length") as server, open_chat(server.settings()) as chat:
        (result,) = ask_all(chat, ["a"])
        assert isinstance(result, ChatReply) and result.truncated


def test_accepted_model_names() -> None:
    with ChatServer(echo, lambda p, a: "wrong_model") as server:
        with open_chat(server.settings(accept_models=["some-other-model"])) as chat:
            (result,) = ask_all(chat, ["a"])
        assert isinstance(result, ChatReply) and result.model == "some-other-model"


def test_the_key_comes_from_the_environment_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "must-not-be-used")
    with ChatServer(echo) as server:
        with open_chat(server.settings(api_key_env="MY_JUDGE_KEY"), tmp_path / "r.jsonl") as chat:
            ask_all(chat, ["a"])
            assert "very-secret" not in chat.identity
        with open_chat(server.settings()) as chat:
            ask_all(chat, ["b"])
        assert [headers["authorization"] for headers in server.headers] == ["Bearer very-secret", "Bearer none"]
    assert "very-secret" not in (tmp_path / "r.jsonl").read_text()
    monkeypatch.delenv("MY_JUDGE_KEY")
    with pytest.raises(UserError, match="MY_JUDGE_KEY"), open_chat(server.settings(api_key_env="MY_JUDGE_KEY")):
        pass
    with pytest.raises(UserError) as error, open_chat(server.settings(api_key_env="sk-pasted-by-mistake")):
        pass
    assert "sk-pasted" not in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "file:///etc/passwd", "http://me:secret@host/v1"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(UserError) as error, open_chat(ChatSettings(backend="server", model="m", base_url=address)):
        pass
    assert "secret" not in str(error.value)


def test_no_address_no_network() -> None:
    with pytest.raises(ValueError, match="a server needs an address"):
        ChatSettings(backend="server", model="m")
    with pytest.raises(ValueError, match="a local model has no address"):
        ChatSettings(backend="local", model="m", base_url="http://127.0.0.1/v1")


def test_progress_is_reported() -> None:
    notes: list[str | None] = []

    class Reporter:
        def begin(self, label: str, total: int | None) -> Reporter:
            notes.append(f"{label} {total}")
            return self

        def advance(self, steps: int = 1, note: str | None = None) -> None:
            notes.append(note)

        def close(self, *, finished: bool) -> None:
            notes.append(f"finished {finished}")

    script = ChatServer(echo, lambda p, a: "400" if p == "b" else None)
    with script as server, open_chat(server.settings()) as chat, reporting(Reporter()):
        list(chat.replies([ChatRequest.ask("a"), ChatRequest.ask("b")], label="judging"))
    assert notes == ["judging 2", "0 from the cache", "0 from the cache, 1 failed", "finished True"]


def test_requests_that_make_no_sense() -> None:
    for messages in ((), (("system", "only"),), (("user", "a"), ("robot", "b"))):
        with pytest.raises(ValueError):
            ChatRequest(messages)
