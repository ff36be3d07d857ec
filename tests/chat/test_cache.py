"""Replies on disk: durable one by one, tolerant to damage, shared by processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmpo.chat.cache import ReplyCache
from mmpo.chat.protocol import ChatReply, ChatRequest, request_key

REPLY = ChatReply("Grüße\n", True, "m-1", cached=False)


def test_what_was_put_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replies.jsonl"
    code = (
        "import os, signal, sys\n"
        "from mmpo.chat.cache import ReplyCache\n"
        "from mmpo.chat.protocol import ChatReply\n"
        "cache = ReplyCache(sys.argv[1])\n"
        "cache.put('k', 'me', ChatReply('Grüße\\n', True, 'm-1', False))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    kept = ReplyCache(path).get("k")
    assert kept is not None and kept == ChatReply(REPLY.text, True, "m-1", cached=True)


@pytest.mark.parametrize("cut", [2, 3, 20, 60])
def test_a_half_written_last_line_costs_only_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "replies.jsonl"
    first = ReplyCache(path)
    for key in ("a", "b"):
        first.put(key, "me", REPLY)
    first.close()
    path.write_bytes(path.read_bytes()[:-cut])
    torn = ReplyCache(path)
    assert torn.get("a") is not None and torn.get("b") is None and torn.damaged == 1
    torn.put("c", "me", REPLY)
    assert torn.get("c") is not None
    torn.close()
    again = ReplyCache(path)
    assert len(again) == 2 and again.get("c") is not None


def test_damage_in_the_middle_costs_only_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    cache = ReplyCache(path)
    for key in "abcd":
        cache.put(key, "me", REPLY)
    cache.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    lines[2] = json.dumps({"key": "c", "text": 3}).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    damaged = ReplyCache(path)
    assert [damaged.get(key) is not None for key in "abcd"] == [True, False, False, True]
    assert damaged.damaged == 2


def test_two_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    one, two = ReplyCache(path), ReplyCache(path)
    for number in range(20):
        (one if number % 2 else two).put(str(number), "me", ChatReply(f"text {number}", False, "m", False))
    assert [one.get(str(number)).text for number in range(1, 20, 2)] == [f"text {n}" for n in range(1, 20, 2)]  # type: ignore[union-attr]
    assert len(ReplyCache(path)) == 20


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    cache = ReplyCache(None)
    cache.put("a", "me", REPLY)
    assert cache.get("a") is None


def test_the_key_covers_everything_that_decides_a_reply() -> None:
    base = ChatRequest.ask("hello")
    others = [
        ChatRequest.ask("hello!"),
        ChatRequest.ask("hello", system="be brief"),
        ChatRequest.ask("hello", images=(b"x",)),
        ChatRequest.ask("hello", max_tokens=5),
        ChatRequest.ask("hello", temperature=0.5),
        ChatRequest.ask("hello", seed=1),
    ]
    keys = {request_key("me", request) for request in [base, *others]} | {request_key("you", base)}
    assert len(keys) == 8
    assert request_key("me", base) == request_key("me", ChatRequest.ask("hello", temperature=0))
