"""The command of docs/scaling.md for several machines: `torchrun … -m mmpo train` in two processes on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainers.material import write_pairs


@pytest.mark.slow
def test_torchrun_trains_in_two_processes(tiny_llava_folder: Path, tmp_path: Path) -> None:
    section = {
        "model": str(tiny_llava_folder), "pairs": str(write_pairs(tmp_path / "pairs", 8)), "eval_fraction": 0,
        "batch_size": 2, "max_steps": 2, "samples": {"n": 0},
    }  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "two", "train": section}))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
        "-m", "mmpo", "train", str(recipe), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/train/train_result.json").read_text())
    assert result["steps"] == 2
    assert result["epochs"] == 1.0  # two processes x two pairs x two steps
    assert load_file(tmp_path / "run/train/adapter/adapter_model.safetensors")
