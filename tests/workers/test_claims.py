"""Claims and teams: real processes, dead owners, other machines with other clocks."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmpo import locks
from mmpo.chat.cache import ReplyCache
from mmpo.chat.protocol import ChatReply
from mmpo.claims import alone, remove_claims, shared_out
from mmpo.errors import UserError
from mmpo.files import owners
from mmpo.files.atomic import remove_leftovers
from mmpo.locks import CLAIM, claimed, holders_in, locked
from mmpo.team import Team, share_of, working_in

FORK = multiprocessing.get_context("fork")
ABROAD = "0123abcd-77-88"
"""A process of another machine."""


def in_child(work: Any, *args: Any) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=work, args=args)
    process.start()
    return process


def make(folder: Path, count: int, share: int, shares: int, pause: float = 0.02) -> None:
    """Make the files 0 … `count` - 1 as a member of a team, and note who made which."""
    paths = [folder / str(number) for number in range(count)]
    mine: list[int] = []
    with (
        working_in(Team("t", share, shares)),
        closing(shared_out(paths, lambda n: paths[n].exists(), lambda n: None)) as todo,
    ):
        for number in todo:
            time.sleep(pause)
            paths[number].write_text("made")
            mine.append(number)
    (folder / f"by-{share}").write_text(json.dumps(mine))


def foreign(path: Path, *, age: float) -> None:
    """A claim on `path` of a process of another machine, last touched `age` seconds ago."""
    file = path.with_name(f".{path.name}{CLAIM}")
    file.write_text(json.dumps({"owner": ABROAD, "pid": 77, "host": "other", "since": "then"}))
    os.utime(file, (time.time() - age,) * 2)


def test_members_share_the_work_out(tmp_path: Path) -> None:
    members = [in_child(make, tmp_path, 12, share, 3) for share in range(3)]
    for member in members:
        member.join(200)
        assert member.exitcode == 0
    made = [json.loads((tmp_path / f"by-{share}").read_text()) for share in range(3)]
    assert sorted(number for own in made for number in own) == list(range(12)), "each once"
    assert not list(tmp_path.glob(f".*{CLAIM}"))


def test_the_others_take_over_what_a_dead_one_claimed(tmp_path: Path) -> None:
    slow = in_child(make, tmp_path, 4, 0, 2, 60.0)
    deadline = time.monotonic() + 30
    while not (claims := list(tmp_path.glob(f".*{CLAIM}"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one["pid"] for one in holders_in(claims[0])] == [slow.pid]
    slow.kill()
    slow.join(30)
    make(tmp_path, 4, 1, 2, 0.0)
    assert json.loads((tmp_path / "by-1").read_text()) == [1, 3, 0, 2], "the own share first"


def test_a_claim_of_another_machine_holds_as_long_as_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = tmp_path / "00003.json"
    foreign(unit, age=locks.SILENT / 2)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # the own clock is wrong by decades
    with claimed(unit) as mine:
        assert not mine
    monkeypatch.undo()
    foreign(unit, age=locks.SILENT + 5)
    with claimed(unit) as mine:
        assert mine
        foreign(unit, age=0)  # it was only silent, and comes back: now both make it
    assert holders_in(unit.with_name(f".{unit.name}{CLAIM}"))[0]["owner"] == ABROAD, "its claim stays its own"
    remove_claims(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_at_a_time(tmp_path: Path) -> None:
    def add(folder: Path) -> None:
        with working_in(Team("t")), alone(folder):
            number = int((folder / "n").read_text())
            time.sleep(0.05)
            (folder / "n").write_text(str(number + 1))

    (tmp_path / "n").write_text("0")
    half = tmp_path / f".scorecard.json.{owners.place()}-4194305-1.01234567.tmp"
    half.write_text("{")
    members = [in_child(add, tmp_path) for _ in range(4)]
    for member in members:
        member.join(200)
    assert (tmp_path / "n").read_text() == "4"
    assert not half.exists(), "what a dead one was writing"


def test_a_team_holds_a_folder_together(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def hold(team: Team | None, begin: Any, end: Any) -> None:
        with working_in(team), locked(run):
            begin.set()
            end.wait(60)

    def refused(team: Team | None) -> bool:
        try:
            with working_in(team), locked(run):
                return False
        except UserError as error:
            return "in use by process" in error.message

    begins, ends = [FORK.Event() for _ in range(2)], [FORK.Event() for _ in range(2)]
    members = [in_child(hold, Team("a"), *events) for events in zip(begins, ends, strict=True)]
    for event in begins:
        assert event.wait(60)
    assert {one["pid"] for one in holders_in(run / locks.NAME)} == {member.pid for member in members}
    assert refused(None) and refused(Team("b")) and not refused(Team("a"))
    ends[0].set()
    members[0].join(60)
    assert refused(None), "the other one is still there"
    members[1].kill()
    members[1].join(60)
    assert not refused(None)


def test_each_member_has_its_own_log_and_reads_all(tmp_path: Path) -> None:
    path, reply = tmp_path / "replies.jsonl", ChatReply("yes", False, "m", cached=False)
    other = tmp_path / f"replies.{ABROAD}.jsonl"
    with working_in(Team("t")):
        cache = ReplyCache(path)
        cache.put("a", "i", reply)
        cache.close()
        assert cache.path is not None and owners.tag() in cache.path.name
    cache.path.rename(other)
    half = other.read_bytes()[:-9]
    other.write_bytes(other.read_bytes() + half)  # another machine is writing just now
    for team, new in ((None, "b"), (Team("t"), "c")):
        with working_in(team):
            cache = ReplyCache(path)
            found = cache.get("a")
            assert found is not None and found.text == "yes" and cache.get(new) is None
            cache.put(new, "i", reply)
            assert cache.get(new) is not None
            cache.close()
    assert other.read_bytes().endswith(half), "nobody writes into another's file"


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    mine = tmp_path / f".unit.json.{owners.tag()}.01234567.tmp"
    abroad = tmp_path / f".unit.json.{ABROAD}.01234567.tmp"
    dead = tmp_path / f".unit.json.{owners.place()}-4194305-1.01234567.tmp"
    for path in (mine, abroad, dead):
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert mine.exists() and abroad.exists() and not dead.exists()


@pytest.mark.parametrize("text", ["3/2", "0/2", "1/0", "2", "", "/", "1/2/3", "-1/2", "1.0/2", "²/3", "1/99999999"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        share_of(text)


def test_shares() -> None:
    assert [share_of(text) for text in ("1/1", "1/8", "8/8")] == [(0, 1), (0, 8), (7, 8)]


def test_status_reads_only(tmp_path: Path) -> None:
    from mmpo.cli.run_status import status_of
    from mmpo.files.atomic import write_sealed

    run, units = tmp_path / "run", tmp_path / "run" / "build" / "units"
    units.mkdir(parents=True)
    (run / "recipe.yaml").write_text("")
    write_sealed(run / "build" / "step.json", {"state": "started"})
    (units / ".total").write_text("4\n")
    for number in range(3):
        (units / f"{number:05d}.json").write_text("{}")
        os.utime(units / f"{number:05d}.json", (time.time() - 30 + 10 * number,) * 2)
    foreign(units / "00003.json", age=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    [step] = status_of(run)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    [work] = step.work
    assert (step.name, step.state, work.done, work.total) == ("build", "started", 3, 4)
    assert work.per_second == pytest.approx(2 / 30, rel=0.1) and work.seconds_left == pytest.approx(15, rel=0.1)
    assert [(one.what, one.by, one.dead) for one in work.claimed] == [("00003", "process 77 on other", False)]
    with pytest.raises(UserError, match="no run folder"):
        status_of(tmp_path)
