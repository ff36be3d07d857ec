"""One process at a time in a folder: real processes that hold, die, stop, fork and race for a lock."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmpo import locks
from mmpo.errors import UserError
from mmpo.files import atomic, owners

HOLD = """
import sys, time
from mmpo.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
FORK = multiprocessing.get_context("fork")


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def lock_of(folder: Path) -> Path:
    return folder / locks.NAME


def write_lock(folder: Path, *, age: float = 0.0, **content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    lock_of(folder).write_text(json.dumps(content))
    os.utime(lock_of(folder), (time.time() - age,) * 2)
    return folder


def test_a_living_holder_is_named_and_a_dead_one_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        for _ in range(2):
            with pytest.raises(UserError) as error, locks.locked(folder):
                pass
            assert f"{folder} is in use by process {process.pid} on " in error.value.message
            assert "\n" not in error.value.message and "another folder" in (error.value.hint or "")
        process.send_signal(signal.SIGSTOP)  # stopped is not dead
        with pytest.raises(UserError, match="in use"), locks.locked(folder):
            pass
        left = folder / "deep" / f".a.json.{json.loads(lock_of(folder).read_text())['owner']}.0123abcd.tmp"
        left.parent.mkdir()
        left.write_text("half")
        process.kill()
        process.wait()
        with locks.locked(folder) as before:
            assert before is not None and f"process {process.pid} " in before
            assert not left.exists(), "what it was writing is removed"
            locks.announce(folder, before)
            locks.announce(folder, before)
        assert [f"{process.pid}" in record.getMessage() for record in caplog.records] == [True], "said once"
    assert not lock_of(folder).exists()
    with locks.locked(folder) as before:
        assert before is None


def test_the_lock_goes_also_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.locked(tmp_path):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_one_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    with locks.locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "), locks.locked(tmp_path):
        pass


def test_a_process_number_given_again_is_not_mistaken(tmp_path: Path) -> None:
    place, pid, start = owners.tag().split("-")
    other = f"{place}-{pid}-{int(start) - 7}"
    with locks.locked(write_lock(tmp_path / "run", owner=other, pid=int(pid), host="here")) as before:
        assert before is not None


@pytest.mark.parametrize("content", [{"owner": "00000000-12-34", "host": "far", "pid": 12}, {}, {"owner": 7}])
def test_a_lock_of_another_machine_counts_by_its_touches(content: dict[str, Any], tmp_path: Path) -> None:
    folder = write_lock(tmp_path / "run", age=locks.SILENT / 2, **content)
    with pytest.raises(UserError, match="in use"), locks.locked(folder):
        pass
    os.utime(lock_of(folder), (time.time() - locks.SILENT - 5,) * 2)
    with locks.locked(folder) as before:
        assert before is not None


def test_the_holder_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    with locks.locked(tmp_path):
        os.utime(lock_of(tmp_path), (1, 1))
        deadline = time.monotonic() + 10
        while lock_of(tmp_path).stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lock_of(tmp_path).stat().st_mtime > 1e9


def test_who_lost_its_lock_stops(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mmpo import locks; locks.BEAT = 0.02\n"
        "with locks.locked(sys.argv[1]):\n"
        "    path = Path(sys.argv[1], locks.NAME); path.write_text(path.read_text().replace('-', '-1'))\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0 and "was taken over by process" in ended.stderr
    assert lock_of(tmp_path).exists(), "the lock is the other one's"


def test_a_forked_child_gives_nothing_back(tmp_path: Path) -> None:
    with locks.locked(tmp_path):
        context = locks.locked(tmp_path / "own")
        context.__enter__()
        child = FORK.Process(target=context.__exit__, args=(None, None, None))
        child.start()
        child.join()
        assert child.exitcode == 0 and lock_of(tmp_path / "own").exists() and lock_of(tmp_path).exists()
        context.__exit__(None, None, None)
        assert not lock_of(tmp_path / "own").exists()


@pytest.mark.parametrize("kind", ["absent", "stale", "empty"])
def test_of_many_that_try_at_once_one_gets_it(kind: str, tmp_path: Path) -> None:
    """Eight processes, twenty times: none, a dead one's, or an old empty lock is there; they start at one moment."""
    racers, rounds = 8, 20
    start, end, results = FORK.Barrier(racers), FORK.Barrier(racers), FORK.Queue()

    def race() -> None:
        won = []
        for number in range(rounds):
            start.wait()
            try:
                with locks.locked(tmp_path / str(number)):
                    end.wait()  # held until all have tried
                won.append(number)
            except UserError:
                end.wait()
        results.put(won)

    for number in range(rounds):
        if kind == "stale":
            write_lock(tmp_path / str(number), owner=f"{owners.place()}-1-1", pid=1, host="here")
        elif kind == "empty":
            (tmp_path / str(number)).mkdir()
            lock_of(tmp_path / str(number)).touch()
            os.utime(lock_of(tmp_path / str(number)), (1, 1))
    processes = [FORK.Process(target=race, daemon=True) for _ in range(racers)]
    for process in processes:
        process.start()
    won = sorted(number for _ in processes for number in results.get(timeout=60))
    assert won == list(range(rounds))


def test_ranks_of_one_launch_share_the_lock_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locks.locked(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="in use"), locks.locked(tmp_path):
            pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "run").mkdir()
    lock_of(tmp_path / "run").symlink_to(victim)
    with pytest.raises(UserError, match="is a link"), locks.locked(tmp_path / "run"):
        pass
    assert victim.read_text() == "untouched"


def test_a_lock_never_shows_control_characters(tmp_path: Path) -> None:
    folder = write_lock(tmp_path / "run", owner="x", pid="1\x1b[2J", host="a\nb", since="\x07", command="c" * 3000)
    with pytest.raises(UserError) as error, locks.locked(folder):
        pass
    assert error.value.message.isprintable() and len(error.value.message) < 1000


def test_a_folder_that_cannot_be_written_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs as root can write everywhere: the system's refusal stands in for such a folder."""
    import errno

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with locks.locked(tmp_path) as before:
            assert before is None
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_folder_yet_to_be_made_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    with locks.locked(tmp_path / "out", beside=True):
        assert sorted(os.listdir(tmp_path)) == [f".out{locks.NAME}", "link"]
        with pytest.raises(UserError, match="in use"), locks.locked(tmp_path / "link", beside=True):
            pass
    assert os.listdir(tmp_path) == ["link"]


def test_files_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @locks.in_own_folder
    def work(settings: None, run_dir: Path) -> None:
        atomic.write_json(run_dir / "below" / "a.json", {})
        with atomic.JsonLines(run_dir / "log.jsonl") as log:
            log.append({})
        (run_dir / "by-a-library").write_text("")

    def modes(folder: Path) -> set[str]:
        return {oct(stat.S_IMODE(path.stat().st_mode)) for path in (folder, *folder.rglob("*"))}

    before = os.umask(0)
    try:
        work(None, tmp_path / "mine")
        assert modes(tmp_path / "mine") == {"0o700", "0o600"}
        monkeypatch.setenv(locks.UMASK, "027")
        work(None, run_dir=tmp_path / "shared")
        assert modes(tmp_path / "shared") == {"0o750", "0o640"}
        monkeypatch.setenv(locks.UMASK, "rwx")
        with pytest.raises(UserError, match="not a umask"):
            work(None, tmp_path / "none")
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_folder_in_which_nothing_was_done_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(UserError), locks.locked(tmp_path / "run"):
        raise UserError("wrong settings")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="run cannot be made: Not a directory"), locks.locked(tmp_path / "file" / "run"):
        pass
