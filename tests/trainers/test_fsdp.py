"""FSDP2 over two CPU processes: gradients are those of one process, also where one of them has no image."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainers.two_processes import assert_same, run_two


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradients(tmp_path: Path) -> None:
    """DeepSpeed 7170, Qwen3-VL 126, ms-swift 3213: a process without an image made the others wait for ever."""
    expected = run_two("tests.trainers.run_fsdp", tmp_path)
    for checkpointing in (False, True):
        assert_same(load_file(tmp_path / f"checkpointing-{checkpointing}.safetensors"), expected)
