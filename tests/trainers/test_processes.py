"""Two processes under `accelerate launch` train as one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_conversations, write_pairs
from tests.trainers.test_groups import write_groups
from tests.trainers.two_processes import HANGS

ROOT = Path(__file__).parents[2]


def launch(settings_file: Path, run_dir: Path) -> None:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "tests.faults.run_train", str(settings_file), str(run_dir)),
    ]
    # No accelerator visible: the two processes talk through gloo.
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_are_one(tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder,
        write_pairs(tmp_path / "pairs", 22),
        batch_size=2,
        accumulation=2,
        max_steps=4,
        logging_steps=1,
        eval_steps=2,
        save_steps=2,
        objective={
            "dpo": {"beta": 0.2},
            "sft": {"weight": 0.5, "per": "token"},
            "auxiliary": {"weight": 0.5},
            "nca": {"beta": 0.2},
        },
        groups={"data": write_groups(tmp_path / "groups"), "per_pair": 0.5},
        auxiliary={"data": write_conversations(tmp_path / "chat")},
        samples={"n": 1, "max_new_tokens": 3},
    )
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json())
    launch(file, tmp_path / "two")
    train(settings.model_copy(update={"batch_size": 4}), tmp_path / "one")

    one, two = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert one[0]["eval_loss"] != 0
    for a, b in zip(one, two, strict=True):
        for name in set(a) - {"seconds", "pairs_per_second", "eval_runtime"}:
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (a["step"], name)
    # The first step has seen no rounding yet: there the agreement is that of float32.
    for name in ("loss", "loss/sft", "grad_norm"):
        assert two[1][name] == pytest.approx(one[1][name], rel=1e-5), name
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3)
    assert (tmp_path / "two" / "checkpoints" / "checkpoint-4" / "rng_state_1.pth").exists()
