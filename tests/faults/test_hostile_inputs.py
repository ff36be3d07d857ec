"""Whatever is in a file from outside, reading it ends soon and in success, UserError or Quarantined.

`-m slow` tries each kind many times as often.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpo.errors import Quarantined, UserError
from tests.faults.hostile import REPLIES, Kind, damaged, encoded, pairs_folder, read_folder, spoilt
from tests.faults.hostile_files import KINDS

SECONDS = 5.0
"""Processor time for one small file; the slowest takes a tenth of it."""


def written(folder: Path, kind: Kind) -> Path:
    for name, value in (kind.beside or {}).items():
        (folder / name).write_bytes(encoded(name, value))
    return folder / kind.file


def outcome(read: Any, *given: Any) -> Exception | None:
    """None or the clear error; anything else is raised on."""
    started = time.process_time()
    try:
        read(*given)
    except (UserError, Quarantined) as error:
        assert str(error).strip() and len(str(error)) < 3100
        return error
    finally:
        assert time.process_time() - started < SECONDS
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_valid_files_are_read(kind: Kind, tmp_path: Path) -> None:
    """Otherwise what follows would spoil what is spoilt already."""
    path = written(tmp_path, kind)
    path.write_bytes(encoded(kind.file, kind.value))
    kind.read(path)


def attack(kind: Kind, folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    path = written(folder, kind)
    try:
        value = spoilt(kind.value, dice) if not isinstance(kind.value, str) and dice.random() < 0.6 else kind.value
        data = encoded(kind.file, value)
    except Exception:  # not every value has a place in Parquet
        data = encoded(kind.file, kind.value)
    if dice.random() < 0.5:
        data = damaged(data, dice)
    path.write_bytes(data)
    outcome(kind.read, path)


HYPOTHESIS: dict[str, Any] = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def _attacks(tmp_path: Path, examples: int, kinds: list[Kind] = KINDS) -> None:
    @settings(max_examples=examples, **HYPOTHESIS)
    @given(st.sampled_from(kinds), st.integers(0, 2**32))
    def tried(kind: Kind, seed: int) -> None:
        folder = tmp_path / "files"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        attack(kind, folder, seed)

    tried()


def test_spoilt_files_end_in_a_clear_error(tmp_path: Path) -> None:
    _attacks(tmp_path, 250)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_many_spoilt_files(kind: Kind, tmp_path: Path) -> None:
    _attacks(tmp_path, 300, [kind])


def test_spoilt_shards_end_in_a_clear_error(tmp_path: Path) -> None:
    shard = pairs_folder(tmp_path / "pairs")
    sound = shard.read_bytes()
    read_folder(tmp_path / "pairs")

    @settings(max_examples=60, **HYPOTHESIS)
    @given(st.integers(0, 2**32))
    def tried(seed: int) -> None:
        shard.write_bytes(damaged(sound, random.Random(seed)))
        outcome(read_folder, tmp_path / "pairs")

    tried()


@settings(max_examples=150, **HYPOTHESIS)
@given(st.sampled_from(sorted(REPLIES)), st.integers(0, 2**32))
def test_spoilt_replies_are_unread_or_quarantined(name: str, seed: int) -> None:
    text, read = REPLIES[name]
    outcome(read, damaged(text.encode(), random.Random(seed)).decode("utf-8", "replace"))
