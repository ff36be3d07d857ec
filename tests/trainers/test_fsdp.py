"""FSDP2 over two CPU processes: gradients are those of one process, also where one of them has no image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpo.models.score import PairScorer
from tests.trainers.run_fsdp import batch_of, gradients, policy

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--checkpointing"]])
def test_sharded_weights_give_the_same_gradients(tmp_path: Path, options: list[str]) -> None:
    """DeepSpeed 7170, Qwen3-VL 126, ms-swift 3213: a process without an image made the others wait for ever."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.trainers.run_fsdp", str(tmp_path / "out.safetensors"), *options]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    sharded = load_file(tmp_path / "out.safetensors")

    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        vlm = policy()
        for name, gradient in gradients(PairScorer(vlm, sharing="on").train(), batch_of(vlm, rank)).items():
            if name != "loss":
                expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient / 2
            elif rank == 0:
                expected[name] = gradient
    assert sharded.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-6, msg=name)
