"""A helper process that decodes and can be killed. Native loops hold the GIL: no thread or signal handler stops them.

One helper serves one process, is started when first needed and replaced after a kill or `REQUESTS` requests, which
bounds what a leaking library can keep. Talk is one JSON line each way, then raw pixels; nothing is pickled. The helper
also sets an alarm of its own: should its parent die while it loops, the kernel ends it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmpo.video.errors import BackendUnavailable, DecodeTimeout
from mmpo.video.records import Deadline, Pixels, as_json

REQUESTS = 256
NO_PIXELS: Pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)


class DecodeProcess:
    """The helper. Safe for several threads (they take turns); a forked child starts its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._served = 0
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], deadline: Deadline) -> tuple[dict[str, Any], Pixels]:
        """The reply and its frames. DecodeTimeout (after a kill) when the deadline passes, BackendUnavailable when the
        helper dies."""
        with self._lock:
            seconds = deadline.left()
            if seconds <= 0:  # other threads' requests took all of it; the helper is well
                raise DecodeTimeout(deadline.path, f"its turn came after {deadline.seconds:g} s", backend=request["op"])
            process = self._running()
            self._served += 1
            answer: list[tuple[dict[str, Any], Pixels]] = []
            line = json.dumps({**request, "seconds": seconds + 2}, default=as_json).encode() + b"\n"
            talk = threading.Thread(target=_exchange, args=(process, line, answer), daemon=True)
            talk.start()
            talk.join(seconds)
            if answer:
                if self._served >= REQUESTS:
                    self._stop()
                return answer[0]
            hung = process.poll() is None and talk.is_alive()
            self._stop()
            talk.join(5)
            if hung:
                raise DecodeTimeout(deadline.path, f"not decoded within {deadline.seconds:g} s", backend=request["op"])
            raise BackendUnavailable(deadline.path, f"the {request['op']} process died", backend=request["op"])

    def close(self) -> None:
        """End the helper, if this process has one."""
        if os.getpid() == self._owner:
            with self._lock:
                self._stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            package_root = str(Path(__file__).resolve().parents[2])
            paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mmpo.video.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            self._served = 0
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:  # what was still to be sent has no reader any more
                    pass


def _exchange(process: subprocess.Popen[bytes], line: bytes, answer: list[tuple[dict[str, Any], Pixels]]) -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        header = process.stdout.readline()
        if not header.endswith(b"\n"):
            return
        reply = json.loads(header)
        answer.append((reply, _pixels(process.stdout, reply.get("shape"))))
    except (OSError, ValueError, EOFError):
        return  # killed, or died: the caller sees that there is no answer


def _pixels(stream: IO[bytes], shape: list[int] | None) -> Pixels:
    if shape is None:
        return NO_PIXELS
    pixels = np.empty(shape, dtype=np.uint8)
    view = memoryview(pixels.data).cast("B") if pixels.size else memoryview(b"")
    done = 0
    while done < pixels.nbytes:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return pixels


_shared: DecodeProcess | None = None


def shared_process() -> DecodeProcess:
    """This process's helper; a child made by fork gets its own."""
    global _shared
    if _shared is None or _shared._owner != os.getpid():
        _shared = DecodeProcess()
    return _shared


@atexit.register
def _close_shared() -> None:
    if _shared is not None:
        _shared.close()
