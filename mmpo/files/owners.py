"""Owners of files on the disk: the process that something belongs to, and whether it is still alive.

A process number alone is not enough: numbers are reused, and another machine or container has its own. So a process
is named by its place (host, boot, process-number space), its number and the moment it began.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

TAG = r"(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)"
TAGGED = re.compile(rf".+\.{TAG}", re.DOTALL)
"""A name that ends in the tag of its owner."""


@cache
def place() -> str:
    """The scope in which process numbers are unique, as 8 hexadecimal digits: this host since it was started, and in
    it this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def started(pid: int) -> int | None:
    """The start of a process of this place, in ticks since the boot; None where there is no such process (any more), 0
    where it lives and this system does not say."""
    try:
        # man 5 proc: the name, in brackets, may hold anything; behind it come the state and, as the 20th, the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return 0


def tag() -> str:
    """This process, for use in a file name. Forked children have their own."""
    pid = os.getpid()
    return f"{place()}-{pid}-{started(pid) or 0}"


def lives(owner: str) -> bool | None:
    """True if the process of a `tag` is alive. None where it is of another place, or no tag: it can't be known
    here."""
    found = re.fullmatch(TAG, owner)
    if found is None or found["place"] != place():
        return None
    return found["start"] == str(started(int(found["pid"])))
