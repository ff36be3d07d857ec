"""FSDP2 over two CPU processes: gradients are those of one process, also where one of them has no image."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpo.models.score import PairScorer
from tests.trainers.run_fsdp import batch_of, gradients, policy

ROOT = Path(__file__).parents[2]
HANGS = 1200
"""Seconds that nothing takes which works, even on a machine that does much else; the work itself is one second."""


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradients(tmp_path: Path) -> None:
    """DeepSpeed 7170, Qwen3-VL 126, ms-swift 3213: a process without an image made the others wait for ever."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.trainers.run_fsdp"]
    with ExitStack() as stack:
        logs = [stack.enter_context((tmp_path / f"{rank}.log").open("w")) for rank in range(2)]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(rank), str(tmp_path)], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
                )
            )
            for rank, log in enumerate(logs)
        ]
        try:
            # Meanwhile what one process makes of both batches.
            expected = whole_gradients()
            codes = [process.wait(timeout=HANGS) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0, 0], "\n".join((tmp_path / f"{rank}.log").read_text()[-3000:] for rank in range(2))
    for checkpointing in (False, True):
        found = load_file(tmp_path / f"checkpointing-{checkpointing}.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def whole_gradients() -> dict[str, torch.Tensor]:
    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        vlm = policy()
        for name, gradient in gradients(PairScorer(vlm, sharing="on").train(), batch_of(vlm, rank)).items():
            if name != "loss":
                expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient / 2
            elif rank == 0:
                expected[name] = gradient
    return expected
