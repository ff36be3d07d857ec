"""Replies on disk, by content: what was asked once is never asked again, also after a kill or from another process.

The file is JSON Lines and only grows. SQLite would be as durable, but one damaged page can cost all of its replies, and
its locks are known to hang on network file systems. Here a damaged line costs that line: it is skipped and counted.
Every reply is written by one `write` at the end of the file and flushed to the disk before it is handed on, so several
processes may share a file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from mmpo.chat.protocol import ChatReply, ReplyToken
from mmpo.files.atomic import seal_row, sound
from mmpo.outside import json_of
from mmpo.team import all_logs, own_log

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class ReplyCache:
    """The replies in `path`; without a path nothing is kept. Only places are held in memory, not texts."""

    def __init__(self, path: str | Path | None) -> None:
        shared = None if path is None else Path(path)
        self.path = None if shared is None else own_log(shared)
        self.damaged = 0
        self._places: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        self._files: list[int] = []
        if shared is not None and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, _FLAGS, 0o600)
            for one in all_logs(shared):
                self._files.append(self._file if one == self.path else os.open(one, os.O_RDONLY))
                self._index(one, self._files[-1])

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> ChatReply | None:
        """The reply under `key`, or None."""
        place = self._places.get(key)
        if place is None or self._file is None:
            return None
        with self._lock:
            file, start, length = place
            os.lseek(file, start, os.SEEK_SET)
            row = json_of(os.read(file, length), halves=True)
        return _reply(row, row["model"])

    def put(self, key: str, identity: str, reply: ChatReply, usage: dict[str, int] | None = None) -> None:
        """Keep a reply. When this returns it is on the disk."""
        if self._file is None:
            return
        row: dict[str, Any] = {
            "key": key,
            "identity": identity,
            "model": reply.model,
            **_row(reply),
        }
        if usage:
            row["usage"] = usage
        line = json.dumps(seal_row(row)).encode() + b"\n"
        with self._lock:
            _write(self._file, line)
            os.fsync(self._file)
            end = os.lseek(self._file, 0, os.SEEK_CUR)
            self._places[key] = (self._file, end - len(line), len(line))

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._file, self._files = None, []

    def _index(self, path: Path, descriptor: int) -> None:
        start, last = 0, b"\n"
        with open(path, "rb") as file:
            for line in file:
                key = _key_of(line)
                if key is not None:
                    self._places[key] = (descriptor, start, len(line))
                elif line.strip():
                    self.damaged += 1
                start, last = start + len(line), line
        if path == self.path and not last.endswith(b"\n"):
            # a killed process left half a line: the next reply begins on a line of its own
            _write(descriptor, b"\n")
        if self.damaged:
            log.warning("%s: %d damaged lines are skipped; what they held is asked again", path, self.damaged)


def _key_of(line: bytes) -> str | None:
    """The key of a sound line, else None. Half a line is never sound: its braces don't close."""
    try:
        row = json_of(line, halves=True)
    except ValueError:
        return None
    kinds = {"key": str, "text": str, "model": str, "truncated": bool}
    whole = sound(row) and all(isinstance(row.get(name), kind) for name, kind in kinds.items())
    return row["key"] if whole else None


def _row(reply: ChatReply) -> dict[str, Any]:
    row: dict[str, Any] = {"text": reply.text, "truncated": reply.truncated}
    if reply.tokens is not None:
        row["tokens"] = [[token.text, token.logp, token.top] for token in reply.tokens]
    if reply.more:
        row["more"] = [_row(one) for one in reply.more]
    return row


def _reply(row: dict[str, Any], model: str) -> ChatReply:
    tokens = row.get("tokens")
    if tokens is not None:
        tokens = tuple(ReplyToken(text, logp, tuple((one, value) for one, value in top)) for text, logp, top in tokens)
    more = tuple(_reply(one, model) for one in row.get("more", ()))
    return ChatReply(row["text"], row["truncated"], model, cached=True, tokens=tokens, more=more)


def _write(file: int | None, data: bytes) -> None:
    if file is None or os.write(file, data) != len(data):
        raise OSError("the reply cache could not be written whole; is the disk full?")
