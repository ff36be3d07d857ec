"""One process at a time in a folder, or one team: a file in it (or beside it) that says who works there.

    runs/mine/.mmpo-lock      {"owner": …, "pid": …, "host": …, "since": …, "command": …}

The file is made with O_EXCL and never through a link. While it is held, a thread touches it every few seconds. It is
stale, and taken over, where its process is dead (by number *and* start, so that a reused number is not mistaken),
or, for one of another machine, if it was not touched for `SILENT` seconds. Who takes over holds the kernel's lock
on the file meanwhile and looks again first: of two that try, one gets it. Several ranks of one launch count as one:
rank 0 holds the lock. Members of one team (`mmpo.team`) hold it together: the others stand under `with`. Among
themselves they claim pieces of work by files of the same kind (`claimed`).
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mmpo.errors import UserError
from mmpo.files import owners
from mmpo.files.atomic import remove_leftovers
from mmpo.runs import is_main_process
from mmpo.team import Team, current

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = ".mmpo-lock"
BEAT = 10.0
"""Seconds between two touches."""
SILENT = 120.0
"""Seconds without a touch after which a lock of another machine is stale."""
PATIENCE = 5.0
"""Seconds to wait for a process that is just now making or taking the lock."""
CLAIM = ".claim"
UMASK = "MMPO_UMASK"

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
_announced: set[str] = set()

P = ParamSpec("P")
R = TypeVar("R")


class _Held(UserError):
    """Another living process has it."""


@contextmanager
def locked(folder: str | Path, *, beside: bool = False) -> Iterator[str | None]:
    """Hold `folder` for the length of the block; the lock is in it, or `beside` it where the folder is yet to be made.
    Yields who held it before and died, for `announce`, once what that one left half-written is removed.

    Raises UserError where another living process holds it that is not of this one's team. A folder that can't be
    written into is not locked: nothing can go wrong in it.
    """
    folder = Path(folder)
    mine = _ours(current())
    made = not beside and not folder.exists()
    path, before = None, None
    if is_main_process():
        path, before = _acquired(folder, beside, mine)
    if path is None:
        yield None
        return
    if before is not None:
        remove_leftovers(path.parent, folder.resolve().name if beside else None, deep=not beside)
    stop = threading.Event()
    threading.Thread(target=_beat, args=(path, mine, stop), name="mmpo-lock", daemon=True).start()
    try:
        yield before
    finally:
        stop.set()
        if owners.tag() == mine["owner"]:  # a forked child leaves the block too, if it gets that far
            _give_back(path, mine["owner"])
            if made:
                with suppress(OSError):
                    folder.rmdir()  # work that was refused leaves no empty folder


def announce(folder: str | Path, before: str | None) -> None:
    """Say, once, that a folder was taken over from a process that died."""
    if before is not None and before not in _announced:
        _announced.add(before)
        log.warning("%s: %s is no longer there; going on where it stopped", folder, before)


def in_own_folder(work: Callable[P, R]) -> Callable[P, R]:
    """For `work(settings, run_dir, …)`: one process at a time works in `run_dir`, and what is written is private."""

    @functools.wraps(work)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        folder: Any = kwargs["run_dir"] if "run_dir" in kwargs else args[1]
        with private_files(), locked(folder) as before:
            announce(folder, before)
            return work(*args, **kwargs)

    return alone


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """True if making `path` is up to this process for the length of the block; False if another one is at it. A claim
    whose owner died, or fell silent on another machine, is taken over. Should the silent one still live, both make
    `path`, so that has to be harmless."""
    file = path.with_name(f".{path.name}{CLAIM}")
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = _ours()
    try:
        _take(file, path, mine)
    except _Held:
        yield False
        return
    stop = threading.Event()
    threading.Thread(target=_beat, args=(file, mine, stop, False), name="mmpo-claim", daemon=True).start()
    try:
        yield True
    finally:
        stop.set()
        _give_back(file, mine["owner"])


@contextmanager
def private_files() -> Iterator[None]:
    """Inside the block, files are made for their owner alone (600, folders 700), by libraries too, for runs hold
    pictures, answers and reports. MMPO_UMASK=027, say, shares them with the group. Raises UserError where it is no
    such number."""
    text = os.environ.get(UMASK, "077")
    try:
        mask = int(text, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o777:
        raise UserError(f"{UMASK}={text!r}: not a umask", hint="for example 027: the group may read what runs write")
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _ours(team: Team | None = None) -> dict[str, Any]:
    return {
        **({} if team is None else {"team": team.name}),
        "owner": owners.tag(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300] if sys.argv and sys.argv[0] else "python",
    }


def _acquired(folder: Path, beside: bool, mine: dict[str, Any]) -> tuple[Path | None, str | None]:
    """The lock file that is now ours (None where nothing can be written), and who had it before."""
    try:
        if beside:
            real = folder.resolve()
            path = real.parent / f".{real.name}{NAME}"
        else:
            path = folder / NAME
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"the folder {path.parent} cannot be made: {error.strerror}") from None
            with suppress(FileNotFoundError):  # the one before removed its empty folder just now
                return path, _take(path, folder, mine)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        if os.path.lexists(path) and os.access(path.parent, os.W_OK):  # another person's, which we can't even read
            raise _held(folder, None) from None
        log.debug("%s is not locked: %s", folder, error.strerror)
        return None, None


def _take(path: Path, folder: Path, mine: dict[str, Any]) -> str | None:
    """Make the lock ours, or ours too. Returns who had it, if it was stale. Raises UserError if it is held."""
    deadline = time.monotonic() + PATIENCE
    while True:
        handle, new = _open(path)
        try:
            if not _alone(handle, deadline):
                raise _held(folder, _read(handle))
            if not _still_there(handle, path):
                continue  # given back while we waited
            before = _read(handle)
            if not new and before is None and time.monotonic() < deadline and _age(handle, path) < PATIENCE:
                time.sleep(0.02)  # just made by someone who has not written yet
                continue
            others = [] if before is None else _living(before, handle, path)
            if others and not _together(mine, others[0]):
                raise _held(folder, others[0])
            _write(handle, [*others, mine])
            return None if before is None or others else _who(before)
        finally:
            os.close(handle)


def _open(path: Path) -> tuple[int, bool]:
    """The lock file, and whether we made it."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if path.is_symlink():
                raise UserError(f"{path} is a link, which a lock never is", hint="remove it") from None
        with suppress(FileNotFoundError):
            return os.open(path, flags), False


def _alone(handle: int, deadline: float) -> bool:
    """Wait for the kernel's lock on the file, which is held for an instant only. True also where there are none."""
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
            continue
        except OSError:  # a file system without
            pass
        break
    return True


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _read(handle: int) -> dict[str, Any] | None:
    """The record in the lock file; None if it is empty, {} if it is unreadable."""
    text = os.pread(handle, 1 << 20, 0)
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}


def _write(handle: int, holders: Sequence[dict[str, Any]]) -> None:
    """The first holder, and under `with` the other members of its team."""
    first, *others = holders
    record = {**first, "with": others} if others else first
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(record).encode() + b"\n", 0)
    os.fsync(handle)


def holders_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everyone who holds the lock with this record."""
    others = record.get("with")
    first = {key: value for key, value in record.items() if key != "with"}
    return [first, *(one for one in others if isinstance(one, dict))] if isinstance(others, list) else [first]


def holders_in(path: Path) -> list[dict[str, Any]]:
    """Everyone who holds the lock or claim in the file `path`, living or dead. Reads only; a file that is gone or can't
    be read has none."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            return [one for one in holders_of(_read(handle) or {}) if one]
        finally:
            os.close(handle)
    return []


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.get("team") is not None and one.get("team") == other.get("team")


def _living(record: dict[str, Any], handle: int, path: Path) -> list[dict[str, Any]]:
    """The holders that live, as far as can be known: those of other machines if any of them touched it lately."""
    found = []
    touched: bool | None = None
    for holder in holders_of(record):
        owner = holder.get("owner")
        alive = owners.lives(owner) if isinstance(owner, str) else None
        if alive is None:
            touched = _age(handle, path) < SILENT if touched is None else touched
            alive = touched
        if alive:
            found.append(holder)
    return found


def _age(handle: int, path: Path) -> float:
    """Seconds since the lock was touched, by the clock of the file system it is on."""
    probe = path.with_name(f"{path.name}.{owners.tag()}.{threading.get_ident():x}")
    now = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        return os.fstat(now).st_mtime - os.fstat(handle).st_mtime
    finally:
        os.close(now)
        os.unlink(probe)


def _who(holder: dict[str, Any]) -> str:
    def plain(name: str, otherwise: str) -> str:
        text = str(holder.get(name, otherwise))[:200]
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    return f"process {plain('pid', '?')} on {plain('host', 'an unknown host')} (since {plain('since', '?')}: " \
        f"{plain('command', '?')})"  # fmt: skip


def _held(folder: Path, holder: dict[str, Any] | None) -> _Held:
    who = _who(holder or {})
    return _Held(f"{folder} is in use by {who}", hint="wait until it ends, or take another folder")


def _beat(path: Path, mine: dict[str, Any], stop: threading.Event, ends: bool = True) -> None:
    """Touch the lock until told to `stop`. Once another has taken it over, the process stops, if it `ends` with its
    lock."""
    while not stop.wait(BEAT):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                holder = _read(handle)
                if holder is not None and mine["owner"] not in _owners(holder) and not _together(mine, holder):
                    if not ends:
                        return
                    log.error("%s was taken over by %s while this one was silent; it stops", path, _who(holder))
                    caught = callable(signal.getsignal(signal.SIGINT))  # as Ctrl-C; not where that is ignored
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT if caught else signal.SIGTERM)
                    return
                os.utime(handle)
            finally:
                os.close(handle)


def _owners(record: Mapping[str, Any]) -> list[Any]:
    return [holder.get("owner") for holder in holders_of(record)]


def _give_back(path: Path, owner: str) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            _alone(handle, time.monotonic() + PATIENCE)
            holders = holders_of(_read(handle) or {})
            others = [
                holder
                for holder in holders
                if holder.get("owner") != owner and owners.lives(str(holder.get("owner"))) is not False
            ]
            if owner in [holder.get("owner") for holder in holders] and _still_there(handle, path):
                if others:
                    _write(handle, others)
                else:
                    os.unlink(path)
        finally:
            os.close(handle)
