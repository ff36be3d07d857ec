"""Checkpoints that are whole count; everything else does not."""

from __future__ import annotations

from pathlib import Path

from mmpo.trainers import checkpoints


def checkpoint(root: Path, step: int, *, whole: bool = True) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 100)
    (folder / "optimizer.pt").write_bytes(b"y" * 50)
    if whole:
        checkpoints.mark_complete(folder, step=step, data="abc")
    return folder


def test_the_newest_whole_checkpoint_wins(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 12, whole=False)
    (tmp_path / "checkpoint-notes").mkdir()
    found = checkpoints.newest(tmp_path)
    assert found is not None and checkpoints.step_of(found) == 10
    assert (checkpoints.metadata_of(found) or {})["data"] == "abc"


def test_damage_makes_a_checkpoint_not_whole(tmp_path: Path) -> None:
    cut_short, lost, garbled, good = (checkpoint(tmp_path, step) for step in (4, 3, 2, 1))
    (cut_short / "optimizer.pt").write_bytes(b"y" * 49)
    (lost / "adapter_model.safetensors").unlink()
    (garbled / checkpoints.MARKER).write_text("{")
    assert [checkpoints.metadata_of(folder) is None for folder in (cut_short, lost, garbled, good)] == [True] * 3 + [
        False
    ]
    assert checkpoints.newest(tmp_path) == good


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "absent") is None
    checkpoints.prune(tmp_path / "absent", 2)


def test_prune_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 8, whole=False)
    checkpoints.prune(tmp_path, 2)
    assert [checkpoints.step_of(folder) for folder in checkpoints.all_checkpoints(tmp_path)] == [4, 6]
