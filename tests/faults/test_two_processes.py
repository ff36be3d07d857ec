"""Two commands on one folder, in real processes: the second says who works there and touches nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.commands import RUN_COMMANDS, World, finish, lock_of, start, wait_for
from tests.tiny import contents


@pytest.fixture(scope="module")
def world(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"), parrot_folder, 6)


@pytest.mark.slow  # the lock itself, between processes too: tests/test_locks.py
@pytest.mark.parametrize("command", ("convert", *RUN_COMMANDS))
def test_the_second_command_names_the_first_and_leaves_it_alone(command: str, world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = world.words(command, out)
    if command in ("train", "eval"):  # they need no earlier section here
        words += ["--set", f"train.pairs={world.folder / 'to-convert'}", "--set", "eval.adapter=null"]
    first = start(words)
    try:
        wait_for(lock_of(out, command), first)
        os.kill(first.pid, signal.SIGSTOP)
        assert lock_of(out, command).exists()
        before = contents(tmp_path)
        code, said = finish(start(words))
        assert code == 2 and f"{out} is in use by process {first.pid} on " in said
        assert "Traceback" not in said and len(said.strip().splitlines()) == 2, said
        assert contents(tmp_path) == before
        os.kill(first.pid, signal.SIGCONT)
        if command == "convert":
            assert finish(first)[0] == 0
            assert [path.name for path in tmp_path.iterdir()] == ["out"]
            assert len(list((out / "images").iterdir())) == 100
    finally:
        first.kill()
        first.communicate()
