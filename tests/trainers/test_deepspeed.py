"""DeepSpeed over two CPU processes: gradients are those of one process, also where one of them has no image."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainers.two_processes import assert_same, run_two


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed (pip install deepspeed ninja)"
)
def test_sharded_weights_give_the_same_gradients(tmp_path: Path) -> None:
    """DeepSpeed 7170: a process without an image made the others wait for ever. The first run on a machine compiles."""
    expected = run_two("tests.trainers.run_deepspeed", tmp_path, DS_ACCELERATOR="cpu")
    for stage in (2, 3):
        for checkpointing in (False, True):
            assert_same(load_file(tmp_path / f"stage-{stage}-checkpointing-{checkpointing}.safetensors"), expected)
