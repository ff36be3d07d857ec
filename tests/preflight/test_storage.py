"""A full disk, a read-only folder: one clear line in every command, and the same command goes on afterwards.

A small tmpfs is a disk that is really full; where mounting is not allowed those tests are skipped.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmpo.errors import UserError
from mmpo.files.atomic import JsonLines, write_bytes
from mmpo.storage import storage_error
from tests.cli.conftest import Invoke


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * max(0, free - leave))


def test_each_writer_names_its_file(small_disk: Path) -> None:
    fill(small_disk, 4096)
    big = torch.zeros(2**20)

    def lines() -> None:
        with JsonLines(small_disk / "a.jsonl") as log:
            log.append({"text": "x" * 2**21})

    for name, write in {
        "a.bin": lambda: write_bytes(small_disk / "a.bin", b"x" * 2**21),
        "a.jsonl": lines,
        "": lambda: save_file({"w": big}, small_disk / "a.safetensors"),
        "disk": lambda: torch.save(big, small_disk / "a.pt"),
    }.items():
        with pytest.raises(Exception) as caught:
            write()
        told = storage_error(caught.value, small_disk)
        assert told is not None, (name, repr(caught.value))
        assert told.message.startswith("disk full while writing ") and name in told.message
        assert told.hint == "free space and run the same command again"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "disk full while writing x/y"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full while writing run"),
        (OSError("Error writing bytes. Detail: [errno 28] No space left on device"), "disk full while writing run"),
        (Exception("I/O error: No space left on device (os error 28)"), "disk full while writing run"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: no permission"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: the disk is read-only"),
        (OSError(errno.EFBIG, "File too large", "x"), "x: larger than this account or disk allows"),
    ],
)
def test_what_libraries_say(error: Exception, message: str) -> None:
    told = storage_error(error, Path("run"))
    assert told is not None and message in told.message
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    assert storage_error(wrapped, Path("run")) is not None


def test_other_errors_are_left_alone() -> None:
    for error in (ValueError("errno 28"), OSError(errno.ENOENT, "gone", "x"), KeyError("x"), UserError("no")):
        assert storage_error(error, Path("run")) is None


@pytest.mark.slow
def test_training_says_so_and_goes_on(mmpo: Invoke, recipe: Path, small_disk: Path) -> None:
    fill(small_disk, 40_000)
    run = small_disk / "run"
    # The preflight would refuse so small a disk; this one gets full while it works.
    full = subprocess.run(
        [sys.executable, "-c", PATIENT, "train", recipe, "--out", run], capture_output=True, text=True
    )
    assert full.returncode == 2, full.stdout + full.stderr
    assert f"error: disk full while writing {run}" in full.stderr
    assert "free space and run the same command again" in full.stderr
    assert "Traceback" not in full.stdout + full.stderr and "please report" not in full.stderr
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert mmpo("train", recipe, "--out", run).exit_code == 0


PATIENT = """
import sys
from mmpo.preflight import machine
machine.shutil.disk_usage = lambda place: type("Usage", (), {"free": 10**12})
from mmpo.cli import main
main()
"""


def test_too_little_room_is_told_before(mmpo: Invoke, recipe: Path, small_disk: Path) -> None:
    fill(small_disk, 20_000)
    refused = mmpo("train", recipe, "--out", small_disk / "run")
    assert refused.exit_code == 2 and "free, and the run needs about" in refused.stderr
    assert not (small_disk / "run").exists()


def test_a_read_only_disk(mmpo: Invoke, recipe: Path, small_disk: Path, photos: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = mmpo("train", recipe, "--out", small_disk / "run")
    assert refused.exit_code == 2 and "no permission to write in" in refused.stderr
    for words in (("demo", "--quick", "--out", small_disk / "d"), ("convert", photos, small_disk / "c")):
        said = mmpo(*words)
        assert said.exit_code == 2 and "Traceback" not in said.output, said.output


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(recipe: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    words = [sys.executable, "-m", "mmpo", "train", recipe, "--out", "runs/a"]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and "larger than this account or disk allows" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written(here: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmpo", "recipe", "show", "demo"], stdout=full, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    assert done.returncode == 2 and "disk full while writing the output" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
